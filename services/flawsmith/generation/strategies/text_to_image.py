"""Whole images from text alone (In&Out)."""

from __future__ import annotations

import numpy as np

from flawsmith.generation.diffusion import LatentDiffusionModel
from flawsmith.generation.drawing_request import DrawingRequest, MaskedImages
from flawsmith.generation.sampling import sample_latents
from flawsmith.generation.signal_leak import SignalLeak


def text_to_image(
    model: LatentDiffusionModel,
    request: DrawingRequest,
    signal_leak: SignalLeak | None,
    masked: MaskedImages | None = None,
) -> np.ndarray:
    """One image a seed, uint8, N x height x width x 3. signal_leak: the merged adapter's, or None. masked: not used.

    Raises what `sample_latents` raises.
    """
    height, width = request.height, request.width
    if request.round_size:
        height, width = model.nearest_side(height), model.nearest_side(width)
    latents = sample_latents(
        model,
        request.prompt,
        request.negative_prompt,
        height=height,
        width=width,
        steps=request.steps,
        guidance=request.guidance,
        seeds=request.seeds,
        clip_skip=request.clip_skip,
        signal_leak=signal_leak,
    )
    return model.decode_latents(latents)
