"""What a noise schedule lets through: samplers start from pure noise, but training never saw it pure.

At the last timestep of Stable Diffusion's schedule a trace of the image is left, from which models read overall
colour and layout; started from pure noise they take them from chance. Starting from that trace of the training
images' mean instead draws the product's own (Everaert et al. 2024, "Exploiting the Signal-Leak Bias in Diffusion
Models"; Lin et al. 2023 describe the flaw).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F


def leaked_start(noise: torch.Tensor, leak: torch.Tensor, alpha_cumprod: torch.Tensor) -> torch.Tensor:
    """The latents to start from: `sqrt(a) * leak + sqrt(1 - a) * noise`, the noise without its channels' means.

    noise: N x channels x h x w. leak: channels x h' x w', scaled to h x w. alpha_cumprod: `a` of the first timestep.
    """
    scaled = F.interpolate(leak[None].to(noise), noise.shape[-2:], mode="bilinear", antialias=True)
    centred = noise - noise.mean(dim=(2, 3), keepdim=True)
    share = alpha_cumprod.to(noise)
    return share.sqrt() * scaled + (1 - share).sqrt() * centred


def to_json(leak: torch.Tensor) -> dict[str, Any]:
    """A leak as JSON values, float16, for an adapter's header."""
    data = leak.detach().cpu().numpy().astype("<f2")
    return {"shape": list(data.shape), "float16": base64.b64encode(data.tobytes()).decode()}


def from_json(values: Mapping[str, Any]) -> torch.Tensor:
    """The leak that `to_json` wrote, float32."""
    data = np.frombuffer(base64.b64decode(values["float16"]), dtype="<f2").reshape(values["shape"])
    return torch.from_numpy(data.astype(np.float32))
