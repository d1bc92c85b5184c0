"""Architectures of base models, by name: one module each, and one line here."""

from __future__ import annotations

from collections.abc import Mapping

from flawsmith.common.errors import FailedPreconditionError
from flawsmith.generation.architectures.flux2 import Flux2Klein
from flawsmith.generation.architectures.stable_diffusion import StableDiffusion
from flawsmith.generation.architectures.stable_diffusion_xl import StableDiffusionXL
from flawsmith.generation.diffusion import LatentDiffusionModel

ARCHITECTURES: Mapping[str, type[LatentDiffusionModel]] = {
    "stable-diffusion": StableDiffusion,
    "stable-diffusion-xl": StableDiffusionXL,
    "flux2-klein": Flux2Klein,
}
_PIPELINES: Mapping[str, str] = {
    "StableDiffusionPipeline": "stable-diffusion",
    "StableDiffusionInpaintPipeline": "stable-diffusion",
    "StableDiffusionXLPipeline": "stable-diffusion-xl",
    "StableDiffusionXLInpaintPipeline": "stable-diffusion-xl",
    "Flux2KleinPipeline": "flux2-klein",
}


def architecture_of(pipeline: str) -> str:
    """The architecture that a pipeline class of diffusers draws with.

    Raises FailedPreconditionError (BASE_MODEL_UNSUPPORTED).
    """
    if pipeline not in _PIPELINES:
        raise FailedPreconditionError(
            "BASE_MODEL_UNSUPPORTED",
            f"models of diffusers' {pipeline} are not supported; those of {', '.join(sorted(_PIPELINES))} are",
        )
    return _PIPELINES[pipeline]
