"""What a noise schedule lets through: samplers start from pure noise, but training never saw it pure.

At the last timestep of Stable Diffusion's schedule a trace of the image is left, from which models read overall
colour and layout; started from pure noise they take them from chance. Starting from that trace of the training
images' mean instead draws the product's own (Everaert et al. 2024, "Exploiting the Signal-Leak Bias in Diffusion
Models"; Lin et al. 2023 describe the flaw).
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class SignalLeak:
    """mean: mean latents of the training images, channels x h x w. start: the fraction of the schedule where drawing
    starts; 1 is its noisy end, and below about 0.7 the mean image itself begins to show."""

    mean: torch.Tensor
    start: float


def leaked_start(
    noise: torch.Tensor, mean: torch.Tensor, add_noise: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """The latents to start from: the mean as noisy as at the first timestep, the noise without its channels' means.

    noise: N x channels x h x w. mean: channels x h' x w', scaled to h x w. add_noise: from latents and noise, both of
    noise's shape, to noisy latents of the first timestep.
    """
    scaled = F.interpolate(mean[None].to(noise), noise.shape[-2:], mode="bilinear", antialias=True)
    centred = noise - noise.mean(dim=(2, 3), keepdim=True)
    return add_noise(scaled.expand_as(noise), centred)


def to_json(leak: SignalLeak) -> dict[str, Any]:
    """A leak as JSON values, its mean in float16, for an adapter's header."""
    data = leak.mean.detach().cpu().numpy().astype("<f2")
    return {"start": leak.start, "shape": list(data.shape), "float16": base64.b64encode(data.tobytes()).decode()}


def from_json(values: Mapping[str, Any]) -> SignalLeak:
    """The leak that `to_json` wrote, float32."""
    data = np.frombuffer(base64.b64decode(values["float16"]), dtype="<f2").reshape(values["shape"])
    return SignalLeak(torch.from_numpy(data.astype(np.float32)), values["start"])
