"""Architectures of base models, by the name that `flawsmith.generation.layouts` knows them by: one module each, and one
line here."""

from __future__ import annotations

from collections.abc import Mapping

from flawsmith.generation.architectures.flux2 import Flux2Klein
from flawsmith.generation.architectures.stable_diffusion import StableDiffusion
from flawsmith.generation.architectures.stable_diffusion_xl import StableDiffusionXL
from flawsmith.generation.diffusion import LatentDiffusionModel

_KINDS: tuple[type[LatentDiffusionModel], ...] = (
    StableDiffusion,
    StableDiffusionXL,
    Flux2Klein,
)
ARCHITECTURES: Mapping[str, type[LatentDiffusionModel]] = {kind.architecture: kind for kind in _KINDS}
