"""Two-dimensional Perlin noise of any height and width, and the regions that it makes.

The formula is Perlin's "Improving Noise" (2002) with unit gradients, as in the implementation that DRAEM and MemSeg
share. That implementation tiles gradients by whole pixels and so fails wherever a scale does not divide the image;
here the lattice is sampled at `row * cells / height`, which is the same thing where it divides and defined elsewhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from flawsmith.augmentation import kernels

NOISE_STEP = 1.0 / 170.0
"""Noise between -0.5 and 1 is kept as bytes in steps of this."""

NO_LIMIT = np.empty((0, 0), np.uint8)

_SPARSE = 0.15
"""Share of tiles with any mask below which it pays to skip the others (measured)."""


class PerlinParameters(BaseModel):
    """How regions are drawn; the published values of MemSeg, DRAEM and RealNet are the defaults.

    max_scale_exponent: lattice cells per axis are 2**k with k uniform from 0 to this. max_rotation: degrees by which
    the noise is turned, uniform, either way. threshold: of the noise, which lies within -1 and 1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_scale_exponent: int = Field(default=5, ge=0, le=8)
    max_rotation: float = Field(default=90.0, ge=0.0, le=180.0)
    threshold: float = Field(default=0.5, ge=0.0, le=0.95)


@dataclass(frozen=True)
class Noise:
    """Noise of one image, not evaluated yet.

    constant, slope: of `kernels.noise_columns`. cells_y: lattice cells over the height.
    """

    constant: np.ndarray
    slope: np.ndarray
    cells_y: float
    height: int

    def as_bytes(self, steps: float, offset: float) -> tuple[np.ndarray, np.ndarray]:
        """`floor(steps * noise + offset)` within 0 and 255, uint8 of height x width; and each tile's largest byte."""
        return kernels.noise_bytes(
            self.constant, self.slope, self.cells_y, self.height, np.float32(steps), np.float32(offset)
        )

    def extent(self) -> tuple[float, float]:
        """Its smallest and largest value."""
        return kernels.noise_range(self.constant, self.slope, self.cells_y, self.height)


def draw_noise(rng: np.random.Generator, height: int, width: int, cells_y: float, cells_x: float) -> Noise:
    """Noise with cells_y x cells_x lattice cells over the image; both above 0, whole or not.

    Zero mean, within [-1, 1]. Directions of the gradients are uniform over 1,024.
    """
    shape = (math.ceil(cells_y) + 1, math.ceil(cells_x) + 1)
    directions = rng.integers(0, kernels.DIRECTIONS, size=shape, dtype=np.int16)
    constant, slope = kernels.noise_columns(directions, float(cells_x), width, kernels.SINES, kernels.COSINES)
    return Noise(constant, slope, float(cells_y), height)


def draw_scales(rng: np.random.Generator, max_exponent: int) -> tuple[int, int]:
    """Lattice cells down and across: 2**k each, k uniform from 0 to the largest."""
    down, across = rng.integers(0, max_exponent + 1, size=2).tolist()
    return 2**down, 2**across


def draw_angle(rng: np.random.Generator, largest: float) -> tuple[float, float, float]:
    """Degrees, uniform within +-largest; and their cosine and sine."""
    degrees = float(rng.uniform(-largest, largest))
    return degrees, math.cos(math.radians(degrees)), math.sin(math.radians(degrees))


def threshold_byte(threshold: float) -> tuple[int, float]:
    """The byte that stands for a noise threshold, and the offset that makes bytes from there on mean "above it"."""
    byte = round((threshold + 0.5) / NOISE_STEP)
    return byte, byte - threshold / NOISE_STEP


def draw_region(
    rng: np.random.Generator, height: int, width: int, parameters: PerlinParameters, allowed: np.ndarray | None
) -> tuple[np.ndarray, int, dict[str, Any]]:
    """Perlin noise, turned, above the threshold, within what is allowed.

    allowed: uint8 of height x width, 0 where no defect may be; None: everywhere. What is turned in from outside the
    image is no defect. Returns the mask (uint8, 0 or 255; may be empty), its pixels and what was drawn.
    """
    cells_y, cells_x = draw_scales(rng, parameters.max_scale_exponent)
    noise = draw_noise(rng, height, width, cells_y, cells_x)
    degrees, cosine, sine = draw_angle(rng, parameters.max_rotation)
    byte, offset = threshold_byte(parameters.threshold)
    field, tiles = noise.as_bytes(1.0 / NOISE_STEP, offset)
    drawn = {"scale": [cells_y, cells_x], "degrees": degrees}
    if np.count_nonzero(tiles >= byte) < _SPARSE * tiles.size:
        mask, area = kernels.turned_region(field, tiles, cosine, sine, byte, NO_LIMIT if allowed is None else allowed)
        return mask, area, drawn
    # The same mask: with so much of it, turning everything is faster than looking for what can be left out.
    turned = kernels.affine(field, cosine, -sine, sine, cosine, 0)
    mask = cv2.threshold(turned, byte - 1, 255, cv2.THRESH_BINARY)[1]
    if allowed is not None:
        mask = cv2.bitwise_and(mask, allowed)
    return mask, cv2.countNonZero(mask), drawn
