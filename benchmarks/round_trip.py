"""What a model's autoencoder leaves of images: no image that it generates is better."""

from __future__ import annotations

import numpy as np

from flawsmith.generation.diffusion import LatentDiffusionModel


def round_trip(model: LatentDiffusionModel, images: np.ndarray) -> np.ndarray:
    """Images (uint8, N x H x W x 3) encoded and decoded; what the size's multiple leaves over is cut off."""
    height, width = (side // model.size_multiple * model.size_multiple for side in images.shape[1:3])
    with model.precision("auto"):
        return model.decode_latents(model.encode_images(images[:, :height, :width])[0])
