"""Guards against pictures that no product looks like."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flawsmith.common.errors import AbortedError

MIN_DEVIATION = 1.0
"""Grey levels. Real surfaces have sensor noise of more; a safety checker's black or a NaN's constant has none."""
SMOOTHED_AWAY = 4.0
"""Grey levels. An autoencoder may smooth away what deviates less."""


def check_images(images: np.ndarray, seeds: Sequence[int]) -> None:
    """Refuse constant images (black ones above all). images: uint8, N x H x W x 3; seeds: theirs, for the message.

    Raises AbortedError (BLACK_IMAGE).
    """
    flat = [seed for seed, image in zip(seeds, images, strict=True) if _deviation(image) < MIN_DEVIATION]
    if flat:
        raise AbortedError(
            "BLACK_IMAGE",
            f"the model drew constant images (seeds {', '.join(map(str, flat))}); check the adapter's training, lower "
            "its alpha or the guidance, or use other seeds",
        )


def check_reconstructed(images: np.ndarray, originals: np.ndarray) -> None:
    """Refuse constant images of originals that are not. images, originals: uint8, N x H x W x 3, any two sizes.

    Raises AbortedError (BLACK_IMAGE).
    """
    for image, original in zip(images, originals, strict=True):
        if _deviation(image) < MIN_DEVIATION and _deviation(original) >= SMOOTHED_AWAY:
            raise AbortedError(
                "BLACK_IMAGE",
                "the autoencoder made a constant image of one that is not; verify the base model's files (flawsmith "
                "models verify), or serve it with the precision float32",
            )


def _deviation(image: np.ndarray) -> float:
    """Of the channel that deviates most, grey levels."""
    return float(image.std(axis=(0, 1)).max())
