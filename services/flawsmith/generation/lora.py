"""LoRA adapters in kohya's two forms: where they sit, their files, and merging them into a model's weights.

LierLa adapts every linear layer and 1x1 convolution of the UNet's transformer blocks and of the text encoder's
attention and MLP. C3Lier adds the UNet's residual, down- and up-sampling blocks; their 3x3 convolutions have a rank
and an alpha of their own. Training runs on peft's layers; files are what kohya's scripts write:
`lora_unet_<module>.lora_down.weight`, `.lora_up.weight`, `.alpha`, `lora_te_<module>...` (`lora_te1_...` and
`lora_te2_...` where there are two text encoders). Networks go by that prefix, as in `LatentDiffusionModel.networks`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from flawsmith.common.errors import FieldViolation, InvalidArgumentError
from flawsmith.generation.spec import Algorithm

UNET_PREFIX = "lora_unet_"
PREFIXES = (UNET_PREFIX, "lora_te_", "lora_te1_", "lora_te2_")
# Classes whose layers are adapted, as kohya's networks/lora.py names them.
_UNET_BLOCKS = {"Transformer2DModel", "Flux2TransformerBlock", "Flux2SingleTransformerBlock"}
_UNET_CONVOLUTION_BLOCKS = {"ResnetBlock2D", "Downsample2D", "Upsample2D"}
_TEXT_ENCODER_BLOCKS = {"CLIPAttention", "CLIPSdpaAttention", "CLIPMLP"}
_ADAPTER = "default"


@dataclass(frozen=True)
class LoraLayerWeights:
    """One adapted layer.

    down: rank x in (linear) or rank x in x k x k. up: out x rank or out x rank x 1 x 1. alpha: the update is scaled
    by alpha / rank.
    """

    down: torch.Tensor
    up: torch.Tensor
    alpha: float

    def delta(self) -> torch.Tensor:
        """The update of the layer's weight at ratio 1, float32, of the weight's shape.

        `alpha / rank * (up @ down)`; for k x k kernels `conv2d(down.permute(1, 0, 2, 3), up).permute(1, 0, 2, 3)`
        (kohya's networks/merge_lora.py).
        """
        down, up = self.down.float(), self.up.float()
        scale = self.alpha / down.shape[0]
        if down.ndim == 2:
            return scale * (up @ down)
        return scale * F.conv2d(down.permute(1, 0, 2, 3), up).permute(1, 0, 2, 3)


@dataclass(frozen=True)
class LoraWeights:
    """A whole adapter: layers by kohya's module name (`lora_unet_mid_block_attentions_0_proj_in`)."""

    layers: Mapping[str, LoraLayerWeights]


def adapted_modules(model: nn.Module, algorithm: Algorithm) -> dict[str, nn.Module]:
    """Layers of a UNet or a text encoder that an algorithm adapts, by their dotted names."""
    blocks = _UNET_BLOCKS | _TEXT_ENCODER_BLOCKS
    if algorithm is Algorithm.C3LIER:
        blocks = blocks | _UNET_CONVOLUTION_BLOCKS
    found: dict[str, nn.Module] = {}
    for name, block in model.named_modules():
        if type(block).__name__ not in blocks:
            continue
        for inner, layer in block.named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                found[f"{name}.{inner}" if inner else name] = layer
    return found


def inject(
    model: nn.Module, algorithm: Algorithm, *, rank: int, alpha: float, conv_rank: int, conv_alpha: float
) -> list[nn.Parameter]:
    """Put trainable LoRA layers into a UNet or text encoder, in place; returns their parameters.

    Everything else is frozen. Down weights start kaiming-uniform(sqrt 5), up weights at zero: no change at first.
    """
    modules = adapted_modules(model, algorithm)
    model.requires_grad_(False)
    # A rank cannot exceed what a small layer holds, but files keep the rank they were asked for, as kohya's do.
    kernels = [re.escape(name) for name, layer in modules.items() if not _is_pointwise(layer)]
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=list(modules),
        rank_pattern=dict.fromkeys(kernels, conv_rank),
        alpha_pattern=dict.fromkeys(kernels, conv_alpha),
        init_lora_weights=True,
    )
    inject_adapter_in_model(config, model, adapter_name=_ADAPTER)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.data = parameter.data.float()
    return parameters


def lower_frozen_weights(network: nn.Module, dtype: torch.dtype) -> None:
    """Hold the frozen weights of linear layers and convolutions in a lower precision, in place, for training under
    autocast to it: autocast would convert each of them at every pass, and does the same with their inputs."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and not layer.weight.requires_grad:
            layer.to(dtype)
        if isinstance(layer, LoraLayer):
            # peft would bring inputs to the adapter's float32 before autocast brings them back.
            layer.cast_input_dtype_enabled = False


def extract(networks: Mapping[str, nn.Module]) -> LoraWeights:
    """Copy the weights of the LoRA layers that `inject` put into networks."""
    layers = {}
    for prefix, model in networks.items():
        for name, layer in model.named_modules():
            if isinstance(layer, LoraLayer):
                layers[prefix + name.replace(".", "_")] = LoraLayerWeights(
                    down=layer.lora_A[_ADAPTER].weight.detach().clone(),
                    up=layer.lora_B[_ADAPTER].weight.detach().clone(),
                    alpha=float(layer.lora_alpha[_ADAPTER]),
                )
    return LoraWeights(layers)


def insert(weights: LoraWeights, networks: Mapping[str, nn.Module]) -> None:
    """Set the LoRA layers that `inject` put into networks: the reverse of `extract`.

    Raises InvalidArgumentError (ADAPTER_KEYS_UNMATCHED) unless the layers are exactly the adapter's.
    """
    targets = {
        prefix + name.replace(".", "_"): layer
        for prefix, model in networks.items()
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLayer)
    }
    different = set(targets) ^ set(weights.layers)
    if different:
        raise unmatched_keys(sorted(different))
    for name, layer in targets.items():
        layer.lora_A[_ADAPTER].weight.data.copy_(weights.layers[name].down)
        layer.lora_B[_ADAPTER].weight.data.copy_(weights.layers[name].up)


def set_ratio(model: nn.Module, ratio: float) -> None:
    """Weigh the LoRA layers that `inject` put into a model, as a merge with that ratio would."""
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            layer.set_scale(_ADAPTER, ratio)


def write_kohya(weights: LoraWeights, path: Path, *, metadata: str = "") -> None:
    """Write a kohya-style safetensors file; the same weights and metadata are the same bytes.

    metadata: free text under the key `flawsmith` of the file's header. (One key: the format does not order them.)
    """
    tensors = {}
    for name, layer in weights.layers.items():
        tensors[f"{name}.lora_down.weight"] = layer.down.contiguous()
        tensors[f"{name}.lora_up.weight"] = layer.up.contiguous()
        tensors[f"{name}.alpha"] = torch.tensor(layer.alpha, dtype=torch.float32)
    save_file(tensors, path, metadata={"flawsmith": metadata} if metadata else None)


def read_kohya(path: Path) -> LoraWeights:
    """Read a kohya-style safetensors file. A layer without `.alpha` has alpha = rank, as in kohya's scripts.

    Raises InvalidArgumentError: ADAPTER_UNREADABLE (no safetensors file, a layer without a rank or with a strange
    alpha), ADAPTER_KEYS_UNMATCHED (keys that are not `<module>.lora_down.weight`, `.lora_up.weight` or `.alpha`, or
    half a layer), listing them.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise InvalidArgumentError(
            "ADAPTER_UNREADABLE", f"the adapter is not a readable safetensors file ({error})"
        ) from error
    parts: dict[str, dict[str, torch.Tensor]] = {}
    strange = []
    for key, tensor in tensors.items():
        name, _, part = key.partition(".")
        if part in ("lora_down.weight", "lora_up.weight", "alpha") and name.startswith(PREFIXES):
            parts.setdefault(name, {})[part] = tensor
        else:
            strange.append(key)
    strange += [name for name, layer in parts.items() if not {"lora_down.weight", "lora_up.weight"} <= set(layer)]
    if strange:
        raise unmatched_keys(sorted(strange))
    return LoraWeights(
        {
            name: LoraLayerWeights(
                down=layer["lora_down.weight"],
                up=layer["lora_up.weight"],
                alpha=layer_alpha(name, layer["lora_down.weight"], layer.get("alpha")),
            )
            for name, layer in parts.items()
        }
    )


def layer_rank(name: str, down: torch.Tensor) -> int:
    """Rank of a layer's weights. Raises InvalidArgumentError (ADAPTER_UNREADABLE)."""
    if down.ndim < 2 or len(down) == 0:
        raise InvalidArgumentError(
            "ADAPTER_UNREADABLE",
            f"{name} of the adapter has no rank: its down weights have the shape {tuple(down.shape)}; save it again",
        )
    return len(down)


def layer_alpha(name: str, down: torch.Tensor, alpha: torch.Tensor | None) -> float:
    """A layer's alpha, its rank where the file has none. Raises InvalidArgumentError (ADAPTER_UNREADABLE)."""
    rank = layer_rank(name, down)
    if alpha is None:
        return float(rank)
    if alpha.numel() != 1 or not math.isfinite(alpha.item()):
        raise InvalidArgumentError(
            "ADAPTER_UNREADABLE", f"{name} of the adapter has an alpha that is not one finite number; save it again"
        )
    return float(alpha.item())


def read_metadata(path: Path) -> str:
    """The metadata that `write_kohya` was given; empty for a file of somebody else's."""
    with safe_open(path, framework="pt") as file:
        return (file.metadata() or {}).get("flawsmith", "")


def _is_pointwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) or layer.kernel_size == (1, 1)


def unmatched_keys(keys: list[str]) -> InvalidArgumentError:
    """The error ADAPTER_KEYS_UNMATCHED, which lists them."""
    return InvalidArgumentError(
        "ADAPTER_KEYS_UNMATCHED",
        f"{len(keys)} keys of the adapter match no layer of this base model: {', '.join(keys[:20])}"
        + (", ..." if len(keys) > 20 else "")
        + "; use an adapter of this base model",
        fields=[FieldViolation(key, "no such layer") for key in keys],
    )
