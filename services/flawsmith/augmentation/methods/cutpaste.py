"""CutPaste (Li et al., "CutPaste: Self-supervised learning for anomaly detection and localization", CVPR 2021).

`patch`: a rectangle of the image itself, its colour jittered, pasted elsewhere. `scar`: a long, thin, turned one.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Any

import cv2
import numpy as np
from pydantic import Field

from flawsmith.augmentation import kernels
from flawsmith.augmentation.methods.base import Augmented, Method, MethodParameters, Sources, blend
from flawsmith.augmentation.photometric import jitter, take
from flawsmith.augmentation.placement import fit

_REFERENCE_SIDE = 256
"""The paper gives scars in pixels of 256 x 256 images; they are scaled by the shorter side."""


class Shape(StrEnum):
    """`either` tosses a coin for each image."""

    PATCH = "patch"
    SCAR = "scar"
    EITHER = "either"


class CutPasteParameters(MethodParameters):
    """Published ranges. jitter: brightness, contrast and saturation change by at most this share.

    Patch: 2 to 15 % of the image, sides in a proportion of 0.3 to 3.3. Scar: 2 to 16 pixels by 10 to 25, turned by
    up to 45 degrees. The foreground limits where pasted pixels stay.
    """

    shape: Shape = Shape.EITHER
    jitter: float = Field(default=0.1, ge=0.0, le=1.0)


def draw(
    rng: np.random.Generator,
    image: np.ndarray,
    allowed: np.ndarray | None,
    parameters: CutPasteParameters,
    sources: Sources,
) -> Augmented | None:
    """One draw."""
    height, width = image.shape[:2]
    shape = parameters.shape
    if shape == Shape.EITHER:
        shape = Shape.PATCH if rng.random() < 0.5 else Shape.SCAR
    if shape == Shape.PATCH:
        rows, columns = _patch_size(rng, height, width)
        degrees = 0.0
    else:
        rows, columns = _scar_size(rng, height, width)
        degrees = float(rng.uniform(-45.0, 45.0))
    top, left = int(rng.integers(0, height - rows + 1)), int(rng.integers(0, width - columns + 1))
    patch, values = jitter(rng, image[top : top + rows, left : left + columns], parameters.jitter)
    centre = (float(rng.uniform(columns / 2, width - columns / 2)), float(rng.uniform(rows / 2, height - rows / 2)))
    pasted, region = _place(patch, (height, width), centre, degrees)
    if allowed is not None:
        region = cv2.bitwise_and(region, allowed)
    fitted = fit(rng, region, cv2.countNonZero(region), parameters)
    if fitted is None:
        return None
    mask, area, regions = fitted
    drawn: dict[str, Any] = {
        "shape": shape.value,
        "source_box": [top, left, rows, columns],
        "centre": [centre[1], centre[0]],
        "degrees": degrees,
        "jitter": values,
        **regions,
    }
    places = kernels.masked_places(mask, area)
    return blend(image, take(pasted, places), mask, places, 1.0, drawn)


def _patch_size(rng: np.random.Generator, height: int, width: int) -> tuple[int, int]:
    area = float(rng.uniform(0.02, 0.15)) * height * width
    proportion = float(rng.uniform(0.3, 1.0)) if rng.random() < 0.5 else float(rng.uniform(1.0, 3.3))
    rows, columns = round(math.sqrt(area / proportion)), round(math.sqrt(area * proportion))
    return min(max(rows, 1), height), min(max(columns, 1), width)


def _scar_size(rng: np.random.Generator, height: int, width: int) -> tuple[int, int]:
    scale = min(height, width) / _REFERENCE_SIDE
    thin, long = float(rng.uniform(2, 16)) * scale, float(rng.uniform(10, 25)) * scale
    return min(max(round(long), 3), height), min(max(round(thin), 2), width)


def _place(
    patch: np.ndarray, size: tuple[int, int], centre: tuple[float, float], degrees: float
) -> tuple[np.ndarray, np.ndarray]:
    """The patch turned about its own centre and moved to `centre` (x, y): its pixels, and where they lie (0 or 255).

    size: of the image. Pixels beside the patch are 0 and none of its own.
    """
    rows, columns = patch.shape[:2]
    # A frame that holds the patch at any angle is turned, not a whole canvas.
    margin = math.ceil((math.hypot(rows, columns) - min(rows, columns)) / 2) + 1 if degrees else 0
    frame = (columns + 2 * margin, rows + 2 * margin)
    matrix = cv2.getRotationMatrix2D(((columns - 1) / 2, (rows - 1) / 2), degrees, 1.0)
    matrix[:, 2] += margin
    # A repeated border keeps black from bleeding into the turned patch's edges.
    turned = cv2.warpAffine(patch, matrix, frame, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    covered = cv2.warpAffine(np.full((rows, columns), 255, np.uint8), matrix, frame, flags=cv2.INTER_NEAREST)
    # Whole pixels: an unturned patch is pasted as it is, not resampled.
    top, left = round(centre[1] - rows / 2) - margin, round(centre[0] - columns / 2) - margin
    first_row, first_column = max(top, 0), max(left, 0)
    last_row, last_column = min(top + frame[1], size[0]), min(left + frame[0], size[1])
    here = np.s_[first_row:last_row, first_column:last_column]
    there = np.s_[first_row - top : last_row - top, first_column - left : last_column - left]
    pasted = np.zeros((*size, *patch.shape[2:]), np.uint8)
    region = np.zeros(size, np.uint8)
    pasted[here], region[here] = turned[there], covered[there]
    return pasted, region


METHOD = Method(
    name="cutpaste",
    description="A patch or scar of the image itself pasted elsewhere (Li et al., CutPaste, CVPR 2021)",
    parameters=CutPasteParameters,
    draw=draw,
    uses_textures=lambda parameters: False,
)
