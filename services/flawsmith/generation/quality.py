"""Guards against pictures that no product looks like."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flawsmith.common.errors import AbortedError

MIN_DEVIATION = 1.0
"""Grey levels. Real surfaces have sensor noise of more; a safety checker's black or a NaN's constant has none."""


def check_images(images: np.ndarray, seeds: Sequence[int]) -> None:
    """Refuse constant images (black ones above all). images: uint8, N x H x W x 3; seeds: theirs, for the message.

    Raises AbortedError (BLACK_IMAGE).
    """
    flat = [
        seed for seed, image in zip(seeds, images, strict=True) if float(image.std(axis=(0, 1)).max()) < MIN_DEVIATION
    ]
    if flat:
        raise AbortedError(
            "BLACK_IMAGE",
            f"the model drew constant images (seeds {', '.join(map(str, flat))}); check the adapter's training, lower "
            "its alpha or the guidance, or use other seeds",
        )
