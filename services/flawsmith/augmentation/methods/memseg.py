"""MemSeg's anomaly simulation (Yang et al., "MemSeg: A semi-supervised method for image surface defect detection
using differences and commonalities", 2022).

    out = (1 - M) I + M (f S + (1 - f) I)

M: Perlin noise above 0.5 within the foreground. S: a texture, or the image itself after three of ten augmentations
and a shuffle of grid cells. f: opacity, the weight of the defect.
"""

from __future__ import annotations

from typing import Any, Self

import cv2
import numpy as np
from pydantic import Field, model_validator

from flawsmith.augmentation.methods.base import Augmented, Method, MethodParameters, TextureSource
from flawsmith.augmentation.perlin import perlin_noise
from flawsmith.augmentation.photometric import AUGMENTATIONS, shuffle_grid


class MemSegParameters(MethodParameters):
    """Defaults are the published ones.

    texture_probability: share of textures among the sources. opacity_min, opacity_max: f is uniform between them.
    max_scale_exponent: Perlin cells per axis are 2**k with k uniform from 0 to this. max_rotation: degrees by which
    the noise is turned, either way. threshold: of the noise, which lies within -1 and 1. grid_rows, grid_columns:
    cells that the structure source shuffles (the code's 8 x 8; the paper says 4 x 8).
    """

    texture_probability: float = Field(default=0.5, ge=0.0, le=1.0)
    opacity_min: float = Field(default=0.15, gt=0.0, le=1.0)
    opacity_max: float = Field(default=1.0, gt=0.0, le=1.0)
    max_scale_exponent: int = Field(default=5, ge=0, le=8)
    max_rotation: float = Field(default=90.0, ge=0.0, le=180.0)
    threshold: float = Field(default=0.5, ge=0.0, lt=1.0)
    grid_rows: int = Field(default=8, ge=1, le=32)
    grid_columns: int = Field(default=8, ge=1, le=32)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.opacity_min > self.opacity_max:
            raise ValueError("opacity_min must not exceed opacity_max")
        return self


def draw(
    rng: np.random.Generator,
    image: np.ndarray,
    foreground: np.ndarray,
    parameters: MemSegParameters,
    textures: TextureSource,
) -> Augmented:
    """One draw. The mask is empty where no noise passes the threshold on the product."""
    height, width = image.shape[:2]
    region, drawn = _region(rng, height, width, parameters)
    region &= foreground
    if not region.any():
        return Augmented(image, region.astype(np.uint8), drawn)
    if rng.random() < parameters.texture_probability:
        source = textures(rng, height, width)
        drawn["source"] = "texture"
    else:
        source, drawn["structure"] = _structure(rng, image, parameters)
        drawn["source"] = "structure"
    if _is_grey(image):
        # A coloured patch on a grey product gives the synthetic image away by its colour alone.
        source = cv2.cvtColor(cv2.cvtColor(source, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    opacity = float(rng.uniform(parameters.opacity_min, parameters.opacity_max))
    drawn["opacity"] = opacity
    result = image.copy()
    inside = image[region].astype(np.float64)
    blended = opacity * source[region].astype(np.float64) + (1.0 - opacity) * inside
    result[region] = np.rint(blended).astype(np.uint8)
    return Augmented(result, region.astype(np.uint8) * np.uint8(255), drawn)


def _region(
    rng: np.random.Generator, height: int, width: int, parameters: MemSegParameters
) -> tuple[np.ndarray, dict[str, Any]]:
    """Thresholded, rotated Perlin noise as bool, height x width."""
    exponents = rng.integers(0, parameters.max_scale_exponent + 1, size=2)
    scale_y, scale_x = (int(2**exponent) for exponent in exponents)
    noise = perlin_noise(rng, height, width, scale_y, scale_x)
    degrees = float(rng.uniform(-parameters.max_rotation, parameters.max_rotation))
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    # What is turned in from outside is 0, below any threshold.
    turned = cv2.warpAffine(noise, matrix, (width, height), flags=cv2.INTER_LINEAR)
    return turned > parameters.threshold, {"scale": [scale_y, scale_x], "degrees": degrees}


def _structure(
    rng: np.random.Generator, image: np.ndarray, parameters: MemSegParameters
) -> tuple[np.ndarray, dict[str, Any]]:
    names = [str(name) for name in rng.choice(list(AUGMENTATIONS), size=3, replace=False)]
    applied: list[dict[str, Any]] = []
    source = image
    for name in names:
        source, values = AUGMENTATIONS[name](rng, source)
        applied.append({"name": name, **values})
    source, order = shuffle_grid(rng, source, parameters.grid_rows, parameters.grid_columns)
    return source, {"augmentations": applied, "order": order}


def _is_grey(image: np.ndarray) -> bool:
    return bool((image[:, :, 0] == image[:, :, 1]).all() and (image[:, :, 1] == image[:, :, 2]).all())


METHOD = Method(
    name="memseg",
    description=(
        "Perlin-shaped regions filled with a texture or with the shuffled image itself, at a random opacity "
        "(Yang et al., MemSeg, 2022)"
    ),
    parameters=MemSegParameters,
    draw=draw,
)
