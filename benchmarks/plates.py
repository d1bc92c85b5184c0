"""The pictures that are drawn into: the sample product, whose grain compresses as a photograph's does."""

from __future__ import annotations

import math

import numpy as np

from flawsmith.drawing import draw_sample


def plates(count: int, height: int, width: int, *, seed: int = 0) -> np.ndarray:
    """Good plates, all different: each drawn one also counts mirrored along either axis and along both.

    Returns uint8, count x height x width x 3 RGB.
    """
    rng = np.random.default_rng(seed)
    drawn = [draw_sample(rng, height, width, defective=False)[0] for _ in range(math.ceil(count / 4))]
    mirrored = [view for plate in drawn for view in (plate, plate[::-1], plate[:, ::-1], plate[::-1, ::-1])]
    return np.stack(mirrored[:count])


def plate_of_any_size(height: int, width: int) -> np.ndarray:
    """One plate repeated until it fills height x width; large ones take long to draw. Shapes as of `plates`."""
    plate = plates(1, 256, 256)[0]
    repeats = (math.ceil(height / 256), math.ceil(width / 256), 1)
    return np.ascontiguousarray(np.tile(plate, repeats)[None, :height, :width])
