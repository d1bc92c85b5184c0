"""Two-dimensional Perlin noise of any height and width.

The formula is Perlin's "Improving Noise" (2002) with unit gradients, as in the implementation that DRAEM and MemSeg
share. That implementation tiles gradients by whole pixels and so fails wherever a scale does not divide the image;
here the lattice is sampled at `row * scale / height`, which is the same thing where it divides and defined elsewhere.
"""

from __future__ import annotations

import math

import numpy as np


def perlin_noise(rng: np.random.Generator, height: int, width: int, scale_y: int, scale_x: int) -> np.ndarray:
    """Noise with scale_y x scale_x lattice cells over the image.

    height, width: pixels, at least 1. Returns float32 of height x width, zero mean, within [-1, 1].
    """
    # math.cos, not numpy's: the latter differs in the last bit from one vector unit to another.
    angles = rng.uniform(0.0, 2.0 * math.pi, size=(scale_y + 1) * (scale_x + 1)).tolist()
    lattice = (scale_y + 1, scale_x + 1)
    gradient_y = np.array([math.sin(angle) for angle in angles], dtype=np.float32).reshape(lattice)
    gradient_x = np.array([math.cos(angle) for angle in angles], dtype=np.float32).reshape(lattice)
    row, fraction_y, fade_y = _axis(height, scale_y)
    column, fraction_x, fade_x = _axis(width, scale_x)
    # A pixel's value is the faded mean of four dot products. Written out, it is a product of a term of the row and
    # a term of the column, so blend lattice rows first (height x lattice) and columns afterwards (height x width).
    slope_y = _blend(gradient_y, row, fraction_y * (1 - fade_y), (fraction_y - 1) * fade_y)
    slope_x = _blend(gradient_x, row, 1 - fade_y, fade_y)
    noise = _blend(slope_y.T, column, 1 - fade_x, fade_x)
    noise += _blend(slope_x.T, column, fraction_x * (1 - fade_x), (fraction_x - 1) * fade_x)
    noise *= np.float32(math.sqrt(2.0))
    return np.ascontiguousarray(noise.T)


def _axis(size: int, scale: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lattice cell of each pixel, position inside of it, and Perlin's quintic fade of that."""
    position = np.arange(size, dtype=np.float64) * (scale / size)
    cell = np.minimum(position.astype(np.intp), scale - 1)
    fraction = position - cell
    fade = fraction**3 * (fraction * (fraction * 6 - 15) + 10)
    return cell, fraction.astype(np.float32), fade.astype(np.float32)


def _blend(values: np.ndarray, cell: np.ndarray, weight: np.ndarray, weight_next: np.ndarray) -> np.ndarray:
    """`weight * values[cell] + weight_next * values[cell + 1]` along the first axis."""
    blended = values[cell] * weight[:, None]
    blended += values[cell + 1] * weight_next[:, None]
    return blended
