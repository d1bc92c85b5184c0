"""Adapter files as other tools write and read them.

kohya: see `flawsmith.generation.lora`. diffusers: what its pipelines' `save_lora_weights` writes and
`load_lora_weights` reads: `<component>.<module>.lora_A.weight` (down) and `.lora_B.weight` (up) with peft's dotted
module names, where a component is `unet`, `transformer`, `text_encoder` or `text_encoder_2`; ranks and alphas are in
the header, as peft's configuration of each component.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from peft.utils.other import get_pattern_key
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
    read_kohya,
    read_metadata,
    unmatched_keys,
    write_kohya,
)
from flawsmith.generation.spec import AdapterFormat, Algorithm

_CONFIGURATION = "lora_adapter_metadata"
"""Key of the header under which diffusers keeps peft's configuration."""
_OURS = "flawsmith"
_PARTS = {
    # peft; older diffusers in two spellings
    "lora_A.weight": "down",
    "lora_B.weight": "up",
    "lora.down.weight": "down",
    "lora.up.weight": "up",
    "lora_linear_layer.down.weight": "down",
    "lora_linear_layer.up.weight": "up",
    "alpha": "alpha",
}


def read_adapter(path: Path, model: LatentDiffusionModel) -> tuple[LoraWeights, str, AdapterFormat]:
    """An adapter of a base model, what it carries beside its weights (see `write_kohya`), and the format of the file.

    Raises what `read_kohya` raises; its ADAPTER_KEYS_UNMATCHED also for modules that the model lacks.
    """
    try:
        with safe_open(path, framework="pt") as file:
            keys, header = list(file.keys()), file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InvalidArgumentError(
            "ADAPTER_UNREADABLE", f"the adapter is not a readable safetensors file ({error})"
        ) from error
    components = _components(model)
    if not any(key.startswith(tuple(f"{component}." for component in components.values())) for key in keys):
        return read_kohya(path), read_metadata(path), AdapterFormat.KOHYA
    configuration = _configuration(header)
    weights = _read_diffusers(path, model, configuration)
    return weights, str(configuration.get(_OURS, "")), AdapterFormat.DIFFUSERS


def write_adapter(
    weights: LoraWeights, path: Path, model: LatentDiffusionModel, to: AdapterFormat, *, metadata: str = ""
) -> None:
    """Write an adapter that fits the model; the same weights and metadata are the same bytes."""
    if to is AdapterFormat.KOHYA:
        write_kohya(weights, path, metadata=metadata)
    else:
        _write_diffusers(weights, path, model, metadata)


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


def _read_diffusers(path: Path, model: LatentDiffusionModel, configuration: Mapping[str, Any]) -> LoraWeights:
    parts: dict[str, dict[str, torch.Tensor]] = {}
    names: dict[str, tuple[str, str]] = {}
    strange = []
    prefixes = {component: prefix for prefix, component in _components(model).items()}
    known = {component: _adaptable_layers(model.networks[prefix]) for component, prefix in prefixes.items()}
    with safe_open(path, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 (not a mapping)
            component, _, rest = key.partition(".")
            ending = next((ending for ending in _PARTS if rest.endswith(f".{ending}")), None)
            module = rest.removesuffix(f".{ending}")
            if ending is None or module not in known.get(component, ()):
                strange.append(key)
                continue
            name = prefixes[component] + module.replace(".", "_")
            names[name] = (component, module)
            parts.setdefault(name, {})[_PARTS[ending]] = file.get_tensor(key)
    strange += [".".join(names[name]) for name, layer in parts.items() if not {"down", "up"} <= set(layer)]
    if strange:
        raise unmatched_keys(sorted(strange))
    return LoraWeights(
        {
            name: LoraLayerWeights(layer["down"], layer["up"], _alpha(layer, *names[name], configuration))
            for name, layer in parts.items()
        }
    )


def _alpha(layer: Mapping[str, torch.Tensor], component: str, module: str, configuration: Mapping[str, Any]) -> float:
    """As diffusers reads it: from the header, else from the file's own key, else the rank."""
    if f"{component}.lora_alpha" in configuration:
        pattern = configuration.get(f"{component}.alpha_pattern") or {}
        found = get_pattern_key(pattern.keys(), module)
        return float(pattern.get(found, configuration[f"{component}.lora_alpha"]))
    return float(layer["alpha"]) if "alpha" in layer else float(len(layer["down"]))


def _write_diffusers(weights: LoraWeights, path: Path, model: LatentDiffusionModel, metadata: str) -> None:
    tensors: dict[str, torch.Tensor] = {}
    # One key for ours as well: a header does not order its keys.
    configuration: dict[str, Any] = {_OURS: metadata} if metadata else {}
    for prefix, component in _components(model).items():
        modules = {prefix + name.replace(".", "_"): name for name in _adaptable_layers(model.networks[prefix])}
        layers = {modules[name]: layer for name, layer in weights.layers.items() if name in modules}
        if not layers:
            continue
        ranks = {module: len(layer.down) for module, layer in layers.items()}
        alphas = {module: layer.alpha for module, layer in layers.items()}
        rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
        values = {
            "r": rank,
            "lora_alpha": alpha,
            "rank_pattern": {f"^{module}": value for module, value in sorted(ranks.items()) if value != rank},
            "alpha_pattern": {f"^{module}": value for module, value in sorted(alphas.items()) if value != alpha},
            "target_modules": sorted(layers),
        }
        configuration |= {f"{component}.{key}": value for key, value in values.items()}
        for module, layer in layers.items():
            tensors[f"{component}.{module}.lora_A.weight"] = layer.down.contiguous()
            tensors[f"{component}.{module}.lora_B.weight"] = layer.up.contiguous()
    save_file(tensors, path, metadata={_CONFIGURATION: json.dumps(configuration, sort_keys=True)})
