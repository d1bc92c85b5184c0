"""Adapters as other tools write and read them.

kohya: see `flawsmith.generation.lora`. diffusers: what its pipelines' `save_lora_weights` writes and
`load_lora_weights` reads: `<component>.<module>.lora_A.weight` (down) and `.lora_B.weight` (up) with peft's dotted
module names, where a component is `unet`, `transformer`, `text_encoder` or `text_encoder_2`; ranks and alphas are in
the header, as peft's configuration of each component. peft: a folder with one folder for each component, which
`PeftModel.from_pretrained(component, folder)` loads and `save_pretrained` makes: `adapter_config.json`, and
`adapter_model.safetensors` with `base_model.model.<module>.lora_A.weight` and `.lora_B.weight`. Both files without a
folder of their own are the denoiser's.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from peft.utils.other import get_pattern_key
from pydantic import BaseModel, Field, ValidationError, field_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from flawsmith.common.errors import InvalidArgumentError
from flawsmith.generation.diffusion import LatentDiffusionModel
from flawsmith.generation.lora import (
    UNET_PREFIX,
    LoraLayerWeights,
    LoraWeights,
    adapted_modules,
    layer_alpha,
    layer_rank,
    read_kohya,
    read_metadata,
    unmatched_keys,
    write_kohya,
)
from flawsmith.generation.spec import AdapterFormat, Algorithm

_CONFIGURATION = "lora_adapter_metadata"
"""Key of the header under which diffusers keeps peft's configuration."""
_OURS = "flawsmith"
_PEFT_PREFIX = "base_model.model."
_PEFT_PARTS = {"lora_A.weight": "down", "lora_B.weight": "up"}
_DIFFUSERS_PARTS = {
    **_PEFT_PARTS,
    # Older versions, in two spellings.
    "lora.down.weight": "down",
    "lora.up.weight": "up",
    "lora_linear_layer.down.weight": "down",
    "lora_linear_layer.up.weight": "up",
    "alpha": "alpha",
}
_CHANGE_THE_BASE = ("pissa", "olora", "corda", "lora_ga", "loftq")


class _PeftConfiguration(BaseModel):
    """What of peft's LoraConfig says how strong an adapter is; ranks and layers are seen from the weights."""

    peft_type: Literal["LORA"] = "LORA"
    lora_alpha: float = Field(default=LoraConfig().lora_alpha, allow_inf_nan=False)
    alpha_pattern: dict[str, float] | None = None
    use_rslora: bool = False
    init_lora_weights: bool | str | None = None

    @field_validator("alpha_pattern")
    @classmethod
    def _compiles(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        for key in value or {}:
            try:
                re.compile(key)
            except re.error as error:
                raise ValueError(f"{key!r} is no regular expression ({error})") from error
        return value

    @field_validator("init_lora_weights")
    @classmethod
    def _leaves_the_base(cls, value: bool | str | None) -> bool | str | None:
        if isinstance(value, str) and value.lower().startswith(_CHANGE_THE_BASE):
            raise ValueError(
                f"{value} changes the base model's weights too; save the adapter as a plain LoRA, with "
                "path_initial_model_for_weight_conversion"
            )
        return value

    def alpha(self, module: str, rank: int) -> float:
        """Such that the update is scaled by alpha / rank."""
        pattern = self.alpha_pattern or {}
        alpha = pattern.get(get_pattern_key(list(pattern), module), self.lora_alpha)
        return alpha * math.sqrt(rank) if self.use_rslora else alpha


class _Entry(NamedTuple):
    """One tensor of an adapter. key: as its file has it. name: `<module>.<part>`."""

    key: str
    component: str
    name: str
    tensor: torch.Tensor


def read_adapter(path: Path, model: LatentDiffusionModel) -> tuple[LoraWeights, str, AdapterFormat]:
    """An adapter of a base model, what it carries beside its weights (see `write_kohya`), and the format of the file
    or folder.

    Raises what `read_kohya` raises; its ADAPTER_KEYS_UNMATCHED also for modules that the model lacks, its
    ADAPTER_UNREADABLE also for an adapter without layers.
    """
    weights, metadata, found = _read_folder_or_file(path, model)
    if not weights.layers:
        raise InvalidArgumentError("ADAPTER_UNREADABLE", "the adapter holds no layers; save it again, with its weights")
    return weights, metadata, found


def write_adapter(
    weights: LoraWeights, path: Path, model: LatentDiffusionModel, to: AdapterFormat, *, metadata: str = ""
) -> None:
    """Write an adapter that fits the model, into a file or, as peft, into a folder; the same weights and metadata are
    the same bytes."""
    if to is AdapterFormat.KOHYA:
        write_kohya(weights, path, metadata=metadata)
    elif to is AdapterFormat.DIFFUSERS:
        _write_diffusers(weights, path, model, metadata)
    else:
        _write_peft(weights, path, model, metadata)


def algorithm_of(weights: LoraWeights, model: LatentDiffusionModel) -> Algorithm:
    """C3Lier where layers outside of transformer blocks are adapted, else LierLa."""
    attention = {
        prefix + name.replace(".", "_")
        for prefix, network in model.networks.items()
        for name in adapted_modules(network, Algorithm.LIERLA)
    }
    return Algorithm.LIERLA if set(weights.layers) <= attention else Algorithm.C3LIER


def rank_of(weights: LoraWeights) -> int:
    """The rank that most layers have."""
    return Counter(len(layer.down) for layer in weights.layers.values()).most_common(1)[0][0]


def _read_folder_or_file(path: Path, model: LatentDiffusionModel) -> tuple[LoraWeights, str, AdapterFormat]:
    if path.is_dir():
        return *_read_peft(path, model), AdapterFormat.PEFT
    tensors, header = _read_safetensors(path)
    components = tuple(f"{component}." for component in _components(model).values())
    if not any(key.startswith(components) for key in tensors):
        return read_kohya(path), read_metadata(path), AdapterFormat.KOHYA
    configuration = _configuration(header)
    weights = _read_diffusers(tensors, model, configuration)
    return weights, str(configuration.get(_OURS, "")), AdapterFormat.DIFFUSERS


def _components(model: LatentDiffusionModel) -> dict[str, str]:
    """diffusers' names of the networks by the prefix of kohya's."""
    denoiser = "unet" if isinstance(model.unet, UNet2DConditionModel) else "transformer"
    names = {
        UNET_PREFIX: denoiser,
        "lora_te_": "text_encoder",
        "lora_te1_": "text_encoder",
        "lora_te2_": "text_encoder_2",
    }
    return {prefix: names[prefix] for prefix in model.networks}


def _adaptable_layers(network: nn.Module) -> list[str]:
    """Layers that an adapter may have, ours or not: all linear ones and convolutions."""
    return [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]


def _configuration(header: Mapping[str, str]) -> dict[str, Any]:
    try:
        found = json.loads(header.get(_CONFIGURATION) or "{}")
    except ValueError as error:
        raise InvalidArgumentError("ADAPTER_UNREADABLE", f"the adapter's header is no JSON ({error})") from error
    return found if isinstance(found, dict) else {}


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and header. Raises InvalidArgumentError (ADAPTER_UNREADABLE)."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
            return tensors, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InvalidArgumentError(
            "ADAPTER_UNREADABLE", f"the adapter's {path.name} is not a readable safetensors file ({error})"
        ) from error


def _read_configuration(values: Any, where: str) -> _PeftConfiguration:
    try:
        return _PeftConfiguration.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, entry['loc']))}: {entry['msg']}" for entry in error.errors())
        raise InvalidArgumentError(
            "ADAPTER_UNREADABLE", f"{where} is not the configuration of a LoRA that can be read: {problems}"
        ) from error


def _read_diffusers(
    tensors: Mapping[str, torch.Tensor], model: LatentDiffusionModel, header: Mapping[str, Any]
) -> LoraWeights:
    configurations: dict[str, _PeftConfiguration] = {}
    for component in _components(model).values():
        values = {
            key.removeprefix(f"{component}."): value for key, value in header.items() if key.startswith(component + ".")
        }
        if "lora_alpha" in values:
            configurations[component] = _read_configuration(values, f"{component} in the header")

    def alpha(component: str, module: str, layer: Mapping[str, torch.Tensor]) -> float:
        """As diffusers reads it: from the header, else from the file's own key, else the rank."""
        if component in configurations:
            return configurations[component].alpha(module, layer_rank(f"{component}.{module}", layer["down"]))
        return layer_alpha(f"{component}.{module}", layer["down"], layer.get("alpha"))

    entries = []
    for key, tensor in tensors.items():
        component, _, name = key.partition(".")
        entries.append(_Entry(key, component, name, tensor))
    return _gather(entries, model, _DIFFUSERS_PARTS, alpha)


def _read_peft(folder: Path, model: LatentDiffusionModel) -> tuple[LoraWeights, str]:
    """Also what it carries. Raises InvalidArgumentError: ADAPTER_UNREADABLE, ADAPTER_KEYS_UNMATCHED."""
    parts: dict[str, Path] = {}
    names = (CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME)
    for path in sorted({file.parent for name in names for file in folder.rglob(name)}):
        component = _components(model)[UNET_PREFIX] if path == folder else path.name
        missing = [str((path / name).relative_to(folder)) for name in names if not (path / name).is_file()]
        if missing:
            raise _unreadable_folder(f"{missing[0]} is missing")
        if component in parts:
            raise _unreadable_folder(f"it holds {component} twice")
        parts[component] = path
    if not parts:
        raise _unreadable_folder("it holds neither of the two")
    configurations: dict[str, _PeftConfiguration] = {}
    entries: list[_Entry] = []
    carried = set()
    for component, path in parts.items():
        where = str((path / CONFIG_NAME).relative_to(folder))
        try:
            values = json.loads((path / CONFIG_NAME).read_text())
        except ValueError as error:
            raise InvalidArgumentError("ADAPTER_UNREADABLE", f"{where} is no JSON ({error})") from error
        configurations[component] = _read_configuration(values, where)
        tensors, header = _read_safetensors(path / SAFETENSORS_WEIGHTS_NAME)
        carried.add(header.get(_OURS, ""))
        for key, tensor in tensors.items():
            # Without the prefix peft would leave a tensor out.
            name = key.removeprefix(_PEFT_PREFIX) if key.startswith(_PEFT_PREFIX) else ""
            entries.append(_Entry(f"{component}/{key}", component, name, tensor))
    if len(carried) > 1:
        raise _unreadable_folder(f"{', '.join(parts)} come from different adapters")

    def alpha(component: str, module: str, layer: Mapping[str, torch.Tensor]) -> float:
        return configurations[component].alpha(module, layer_rank(f"{component}/{module}", layer["down"]))

    return _gather(entries, model, _PEFT_PARTS, alpha), carried.pop()


def _unreadable_folder(problem: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        "ADAPTER_UNREADABLE",
        f"the folder is no adapter of peft's: {problem}; it must have {CONFIG_NAME} and {SAFETENSORS_WEIGHTS_NAME}, "
        "for each part of the model in a folder of its name (unet, text_encoder)",
    )


def _gather(
    entries: Iterable[_Entry],
    model: LatentDiffusionModel,
    endings: Mapping[str, str],
    alpha: Callable[[str, str, Mapping[str, torch.Tensor]], float],
) -> LoraWeights:
    """Layers of tensors. endings: of their names, and what they stand for: `down`, `up` or `alpha`. alpha: of a layer,
    from its component, its module and its tensors by what they stand for.

    Raises InvalidArgumentError (ADAPTER_KEYS_UNMATCHED).
    """
    parts: dict[str, dict[str, torch.Tensor]] = {}
    names: dict[str, tuple[str, str]] = {}
    strange = []
    prefixes = {component: prefix for prefix, component in _components(model).items()}
    known = {component: set(_adaptable_layers(model.networks[prefix])) for component, prefix in prefixes.items()}
    for key, component, rest, tensor in entries:
        ending = next((ending for ending in endings if rest.endswith(f".{ending}")), None)
        module = rest.removesuffix(f".{ending}")
        if ending is None or module not in known.get(component, ()):
            strange.append(key)
            continue
        name = prefixes[component] + module.replace(".", "_")
        names[name] = (component, module)
        parts.setdefault(name, {})[endings[ending]] = tensor
    strange += [".".join(names[name]) for name, layer in parts.items() if not {"down", "up"} <= set(layer)]
    if strange:
        raise unmatched_keys(sorted(strange))
    return LoraWeights(
        {
            name: LoraLayerWeights(layer["down"], layer["up"], alpha(*names[name], layer))
            for name, layer in parts.items()
        }
    )


def _by_component(
    weights: LoraWeights, model: LatentDiffusionModel
) -> Iterator[tuple[str, dict[str, LoraLayerWeights], dict[str, Any]]]:
    """Each adapted component's name, its layers by their dotted names, and the fields of peft's LoraConfig for them."""
    for prefix, component in _components(model).items():
        modules = {prefix + name.replace(".", "_"): name for name in _adaptable_layers(model.networks[prefix])}
        layers = {modules[name]: layer for name, layer in weights.layers.items() if name in modules}
        if not layers:
            continue
        ranks = {module: len(layer.down) for module, layer in layers.items()}
        alphas = {module: layer.alpha for module, layer in layers.items()}
        rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
        yield (
            component,
            layers,
            {
                "r": rank,
                "lora_alpha": alpha,
                "rank_pattern": {f"^{module}": value for module, value in sorted(ranks.items()) if value != rank},
                "alpha_pattern": {f"^{module}": value for module, value in sorted(alphas.items()) if value != alpha},
                "target_modules": sorted(layers),
            },
        )


def _factors(layers: Mapping[str, LoraLayerWeights], prefix: str) -> dict[str, torch.Tensor]:
    """Tensors by peft's names."""
    tensors = {}
    for module, layer in layers.items():
        tensors[f"{prefix}{module}.lora_A.weight"] = layer.down.contiguous()
        tensors[f"{prefix}{module}.lora_B.weight"] = layer.up.contiguous()
    return tensors


def _write_diffusers(weights: LoraWeights, path: Path, model: LatentDiffusionModel, metadata: str) -> None:
    tensors: dict[str, torch.Tensor] = {}
    # One key for ours as well: a header does not order its keys.
    configuration: dict[str, Any] = {_OURS: metadata} if metadata else {}
    for component, layers, values in _by_component(weights, model):
        configuration |= {f"{component}.{key}": value for key, value in values.items()}
        tensors |= _factors(layers, f"{component}.")
    save_file(tensors, path, metadata={_CONFIGURATION: json.dumps(configuration, sort_keys=True)})


def _write_peft(weights: LoraWeights, folder: Path, model: LatentDiffusionModel, metadata: str) -> None:
    for component, layers, values in _by_component(weights, model):
        part = folder / component
        part.mkdir(parents=True)
        configuration = LoraConfig(**values, inference_mode=True).to_dict()
        # peft keeps names in sets, which have no order.
        (part / CONFIG_NAME).write_text(json.dumps(configuration, indent=2, sort_keys=True, default=sorted))
        header = {_OURS: metadata} if metadata else None
        save_file(_factors(layers, _PEFT_PREFIX), part / SAFETENSORS_WEIGHTS_NAME, metadata=header)
