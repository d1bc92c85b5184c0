"""Sizes of images: which ones suit a product and a model."""

from __future__ import annotations

MINI_AREA = 160 * 128
"""Pixels that the base model `mini` was trained at, about."""
MINI_MULTIPLE = 16
"""What sides of its images should be multiples of."""


def fit_area(height: int, width: int, *, area: int, multiple: int) -> tuple[int, int]:
    """Height and width of the same aspect ratio on at most about `area` pixels, each a multiple of `multiple`.

    A smaller image keeps its size, rounded.
    """
    scale = min(1.0, (area / (height * width)) ** 0.5)
    return (
        max(multiple, round(height * scale / multiple) * multiple),
        max(multiple, round(width * scale / multiple) * multiple),
    )
