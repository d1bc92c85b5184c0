"""Textures of high variety, for methods that paste foreign texture into an image."""

import cv2
import numpy as np

from flawsmith.drawing.noise import (
    FloatArray,
    as_float,
    cells,
    cloud,
    coordinates,
    smooth,
    standardise,
    streaks,
)
from flawsmith.drawing.scene import ByteArray, draw, to_bytes


def texture(rng: np.random.Generator, height: int, width: int) -> ByteArray:
    """A random texture, uint8, height x width x 3, RGB; no two calls look alike.

    A third are drawn industrial surfaces, the rest abstract patterns in random colours.
    """
    if rng.random() < 0.33:
        return draw(rng, height, width, defect="none").image
    first, second = _pattern(rng, height, width), _pattern(rng, height, width)
    mix = rng.uniform(0, 1)
    field = standardise(as_float(first * mix + second * (1 - mix)))
    position = np.clip(field * np.float32(rng.uniform(0.2, 0.6)) + 0.5, 0, 1)
    stops = rng.uniform(0, 1, (int(rng.integers(2, 6)), 3))
    levels = np.linspace(0, 1, len(stops))
    image = np.stack([np.interp(position, levels, stops[:, channel]) for channel in range(3)], axis=-1)
    return to_bytes(as_float(image))


def _pattern(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """One abstract field, mean about 0 and standard deviation about 1."""
    y, x = coordinates(height, width)
    scale = float(np.exp(rng.uniform(np.log(3), np.log(40))))
    angle = rng.uniform(0, np.pi)
    along = np.cos(angle) * x + np.sin(angle) * y
    across = np.cos(angle) * y - np.sin(angle) * x
    warp = scale * rng.uniform(0, 1.5) * smooth(rng, height, width, 3 * scale, 3 * scale)
    kind = int(rng.integers(7))
    if kind == 0:
        field = cloud(rng, height, width, scale, 5, rng.uniform(0.4, 0.8))
    elif kind == 1:
        field = streaks(rng, height, width, 6 * scale, max(1.0, scale / 4), angle)
    elif kind == 2:
        field = as_float(np.sin((along + warp) / scale * 3))
    elif kind == 3:
        field = as_float(np.sign(np.sin((along + warp) / scale * 2)) * np.sign(np.sin((across + warp) / scale * 2)))
    elif kind == 4:
        field = cells(rng, height, width, max(scale, 3.0))
    elif kind == 5:
        field = as_float(-np.abs(cloud(rng, height, width, scale, 4)))
    else:
        field = as_float(np.floor(2.5 * cloud(rng, height, width, scale, 3)))
        field = as_float(cv2.GaussianBlur(field, (3, 3), 0.6))
    return standardise(field)
