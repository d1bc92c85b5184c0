"""The ten augmentations that MemSeg's structure source draws three of, with imgaug's definitions and ranges.

Each takes (rng, image: uint8 H x W x 3 RGB) and returns (image of the same kind, what was drawn). Solarize draws its
threshold for every image; the published code drew it once for the whole run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

Augmentation = Callable[[np.random.Generator, np.ndarray], tuple[np.ndarray, dict[str, Any]]]
_LEVELS = np.arange(256, dtype=np.float64)


def gamma_contrast(rng: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """`255 * (v / 255) ** gamma`, gamma in U(0.5, 2) for each channel."""
    gammas = rng.uniform(0.5, 2.0, size=3).tolist()
    table = np.stack([255.0 * (_LEVELS / 255.0) ** gamma for gamma in gammas], axis=-1)
    return _look_up(image, table), {"gamma": gammas}


def brightness(rng: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Value channel of HSV times U(0.8, 1.2) plus U(-30, 30)."""
    factor, offset = float(rng.uniform(0.8, 1.2)), float(rng.uniform(-30, 30))
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[:, :, 2] = cv2.LUT(hsv[:, :, 2], _bytes(_LEVELS * factor + offset))
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), {"factor": factor, "offset": offset}


def sharpness(rng: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Pillow's sharpness with a factor in U(0, 2): 0 smooths, 1 changes nothing, 2 sharpens."""
    factor = float(rng.uniform(0.0, 2.0))
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], dtype=np.float32) / 13
    smooth = cv2.filter2D(image, -1, kernel)
    return cv2.addWeighted(image, factor, smooth, 1 - factor, 0), {"factor": factor}


def hue_and_saturation(rng: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Hue turned and saturation raised, each by its own integer of -50 to 50 (of 255, as imgaug counts)."""
    turn, raised = int(rng.integers(-50, 51)), int(rng.integers(-50, 51))
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    # OpenCV's hue has 180 steps a turn; imgaug maps 255 to half a turn.
    hue_table = (np.arange(256) + round(turn / 255 * 90)) % 180
    hsv[:, :, 0] = cv2.LUT(hsv[:, :, 0], hue_table.astype(np.uint8))
    hsv[:, :, 1] = cv2.LUT(hsv[:, :, 1], _bytes(_LEVELS + raised))
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), {"hue": turn, "saturation": raised}


def solarize(rng: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """With p = 0.5, values from a threshold of 32 to 128 upwards are inverted."""
    if rng.random() >= 0.5:
        return image, {"applied": False}
    threshold = int(rng.integers(32, 129))
    return _look_up(image, np.where(threshold <= _LEVELS, 255 - _LEVELS, _LEVELS)), {
        "applied": True,
        "threshold": threshold,
    }


def posterize(rng: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Keeps the upper 1 to 8 bits."""
    bits = int(rng.integers(1, 9))
    return image & np.uint8(256 - 2 ** (8 - bits)), {"bits": bits}


def invert(rng: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """`255 - v`."""
    return 255 - image, {}


def autocontrast(rng: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Stretches each channel over 0-255 after cutting 0 to 20 % off either end of its histogram."""
    cutoff = int(rng.integers(0, 21))
    table = np.empty((256, 3))
    for channel in range(3):
        low = float(np.percentile(image[:, :, channel], cutoff, method="nearest"))
        high = float(np.percentile(image[:, :, channel], 100 - cutoff, method="nearest"))
        table[:, channel] = (_LEVELS - low) * (255.0 / (high - low)) if high > low else _LEVELS
    return _look_up(image, table), {"cutoff_percent": cutoff}


def equalize(rng: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Histogram equalisation of each channel."""
    return cv2.merge([cv2.equalizeHist(channel) for channel in cv2.split(image)]), {}


def rotate(rng: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Rotation about the centre by U(-45, 45) degrees; corners that come from outside are black."""
    degrees = float(rng.uniform(-45.0, 45.0))
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    return cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR), {"degrees": degrees}


AUGMENTATIONS: dict[str, Augmentation] = {
    "gamma_contrast": gamma_contrast,
    "brightness": brightness,
    "sharpness": sharpness,
    "hue_and_saturation": hue_and_saturation,
    "solarize": solarize,
    "posterize": posterize,
    "invert": invert,
    "autocontrast": autocontrast,
    "equalize": equalize,
    "rotate": rotate,
}


def jitter(rng: np.random.Generator, image: np.ndarray, strength: float) -> tuple[np.ndarray, dict[str, Any]]:
    """Brightness, contrast and saturation each times U(1 - strength, 1 + strength); strength 0 to 1."""
    bright, contrast, saturation = rng.uniform(1 - strength, 1 + strength, size=3).tolist()
    pixels = image.astype(np.float64) * bright
    pixels = (pixels - pixels.mean()) * contrast + pixels.mean()
    grey = pixels.mean(axis=2, keepdims=True)
    pixels = grey + (pixels - grey) * saturation
    return _bytes(pixels), {"brightness": bright, "contrast": contrast, "saturation": saturation}


def shuffle_grid(rng: np.random.Generator, image: np.ndarray, rows: int, columns: int) -> tuple[np.ndarray, list[int]]:
    """Cuts an image into rows x columns cells and shuffles them.

    Sides that the grid does not divide are mirrored up to the next multiple and cut back afterwards.
    """
    height, width = image.shape[:2]
    cell_height, cell_width = math.ceil(height / rows), math.ceil(width / columns)
    padded = cv2.copyMakeBorder(
        image, 0, cell_height * rows - height, 0, cell_width * columns - width, cv2.BORDER_REFLECT
    )
    cells = padded.reshape(rows, cell_height, columns, cell_width, 3).swapaxes(1, 2)
    order = rng.permutation(rows * columns)
    cells = cells.reshape(rows * columns, cell_height, cell_width, 3)[order]
    shuffled = cells.reshape(rows, columns, cell_height, cell_width, 3).swapaxes(1, 2).reshape(padded.shape)
    return np.ascontiguousarray(shuffled[:height, :width]), order.tolist()


def _look_up(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Map levels by a table of 256 (x 3 channels)."""
    return cv2.LUT(image, _bytes(table).reshape(1, 256, -1))


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.rint(values).clip(0, 255).astype(np.uint8)
