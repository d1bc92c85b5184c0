"""Given images through the autoencoder alone: encoded and decoded, with no noise and no denoising between."""

from __future__ import annotations

import cv2
import numpy as np

from flawsmith.common.errors import InvalidArgumentError
from flawsmith.generation.diffusion import LatentDiffusionModel
from flawsmith.generation.drawing_request import DrawingRequest, MaskedImages
from flawsmith.generation.signal_leak import SignalLeak


def reconstruct(
    model: LatentDiffusionModel,
    request: DrawingRequest,
    signal_leak: SignalLeak | None,
    masked: MaskedImages | None,
) -> np.ndarray:
    """The images as the decoder makes them of the encoder's means, uint8, N x height x width x 3.

    masked: one image a seed, scaled to the request's size; masks are not looked at. What the request says beyond size
    and number has no part in it, and neither has an adapter.
    Raises InvalidArgumentError (NO_IMAGES: none or not one a seed; BAD_SIZE).
    """
    if masked is None or len(masked.images) != len(request.seeds):
        raise InvalidArgumentError(
            "NO_IMAGES", f"reconstruction needs one image a seed; there are {len(request.seeds)} seeds"
        )
    height, width = request.height, request.width
    if request.round_size:
        height, width = model.nearest_side(height), model.nearest_side(width)
    model.check_size(height, width)
    images = np.stack([cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC) for image in masked.images])
    means, _ = model.encode_images(images)
    return model.decode_latents(means)
