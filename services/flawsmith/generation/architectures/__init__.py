"""Architectures of base models, by the name that `flawsmith.generation.layouts` knows them by: one module each, and one
line here."""

from __future__ import annotations

from collections.abc import Mapping

from flawsmith.generation.architectures.flux2 import Flux2Klein
from flawsmith.generation.architectures.stable_diffusion import StableDiffusion
from flawsmith.generation.architectures.stable_diffusion_xl import StableDiffusionXL
from flawsmith.generation.diffusion import LatentDiffusionModel

ARCHITECTURES: Mapping[str, type[LatentDiffusionModel]] = {
    "stable-diffusion": StableDiffusion,
    "stable-diffusion-xl": StableDiffusionXL,
    "flux2-klein": Flux2Klein,
}
