"""Augmentations of a texture or of the image itself, of which methods draw three of ten.

Each takes (rng, image: uint8, height x width grey or height x width x 3 RGB) and returns (image of the same kind, what
was drawn). `IMGAUG_TEN` are those of MemSeg, DRAEM and RealNet with imgaug's definitions and ranges, `ANOMALIB_TEN`
those of anomalib with torchvision's. The public code of both draws solarize's threshold once for a whole run; here it
is drawn for every image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from flawsmith.augmentation import kernels

Augmentation = Callable[[np.random.Generator, np.ndarray], tuple[np.ndarray, dict[str, Any]]]
_LEVELS = np.arange(256, dtype=np.int64)
_GREY_WEIGHTS = (0.299, 0.587, 0.114)


def gamma_contrast(rng: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """`255 * (v / 255) ** gamma`, gamma in U(0.5, 2) for each channel."""
    gammas = rng.uniform(0.5, 2.0, size=1 if image.ndim == 2 else 3)
    return _look_up(image, kernels.gamma_tables(gammas)), {"gamma": gammas.tolist()}


def brightness(rng: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """HSV's value times U(0.8, 1.2) plus U(-30, 30)."""
    factor, offset = float(rng.uniform(0.8, 1.2)), float(rng.uniform(-30, 30))
    values = np.rint(_LEVELS * factor + offset).clip(0, 255).astype(np.int64)
    made = _look_up(image, values) if image.ndim == 2 else kernels.set_value(image, values)
    return made, {"factor": factor, "offset": offset}


def sharpness(rng: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Pillow's sharpness with a factor in U(0, 2): 0 smooths, 1 changes nothing, 2 sharpens."""
    factor = float(rng.uniform(0.0, 2.0))
    return _sharpen(image, factor), {"factor": factor}


def hue_and_saturation(rng: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Hue turned and saturation raised, each by its own integer of -50 to 50 of 255; grey stays grey.

    As imgaug counts, 255 is half a turn of the hue, and the whole range of the saturation.
    """
    turn, raised = int(rng.integers(-50, 51)), int(rng.integers(-50, 51))
    drawn = {"hue": turn, "saturation": raised}
    if image.ndim == 2:
        return image, drawn
    return cv2.merge(kernels.shift_hue(*cv2.split(image), turn / 255 * 3, 1.0, raised / 255)), drawn


def solarize(rng: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """With p = 0.5, values from a threshold of 32 to 128 upwards are inverted."""
    if rng.random() >= 0.5:
        return image, {"applied": False}
    threshold = int(rng.integers(32, 129))
    return _look_up(image, _solarized(threshold)), {"applied": True, "threshold": threshold}


def posterize(rng: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Keeps the upper 1 to 8 bits."""
    bits = int(rng.integers(1, 9))
    return _posterized(image, bits), {"bits": bits}


def invert(rng: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """`255 - v`."""
    return cv2.bitwise_not(image), {}


def autocontrast(rng: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Stretches each channel over 0-255 after cutting 0 to 20 % off either end of its histogram."""
    cutoff = int(rng.integers(0, 21))
    return _stretched(image, cutoff), {"cutoff_percent": cutoff}


def equalize(rng: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Histogram equalisation of each channel."""
    return _equalized(image), {}


def rotate(rng: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Rotation about the centre by U(-45, 45) degrees; corners that come from outside are black."""
    degrees = float(rng.uniform(-45.0, 45.0))
    return rotated(image, degrees), {"degrees": degrees}


IMGAUG_TEN: dict[str, Augmentation] = {
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


def contrast(rng: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """`m + factor (v - m)`, m the mean grey level, factor in U(0.5, 2)."""
    factor = float(rng.uniform(0.5, 2.0))
    return _contrasted(image, factor), {"factor": factor}


def photometric_distort(rng: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Brightness times U(0.8, 1.2), and the channels permuted."""
    factor = float(rng.uniform(0.8, 1.2))
    order = rng.permutation(3).tolist()
    made = _look_up(image, np.rint(_LEVELS * factor))
    if image.ndim == 3:
        made = np.ascontiguousarray(made[:, :, order])
    return made, {"factor": factor, "channels": order}


def sharpen_twice(rng: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Pillow's sharpness with a factor of 2."""
    return _sharpen(image, 2.0), {"factor": 2.0}


def hue_saturation_jitter(rng: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Saturation times U(0.5, 1.5) and hue turned by U(-50, 50) degrees; grey stays grey."""
    factor, degrees = float(rng.uniform(0.5, 1.5)), float(rng.uniform(-50.0, 50.0))
    drawn = {"saturation": factor, "hue_degrees": degrees}
    if image.ndim == 2:
        return image, drawn
    return cv2.merge(kernels.shift_hue(*cv2.split(image), degrees / 60, factor, 0.0)), drawn


def solarize_always(rng: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Values from a threshold in U(32, 128) upwards are inverted."""
    threshold = int(rng.integers(32, 129))
    return _look_up(image, _solarized(threshold)), {"threshold": threshold}


def posterize_4(rng: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Keeps the upper 4 bits."""
    return _posterized(image, 4), {"bits": 4}


# AutoAugment's policy for ImageNet (Cubuk et al., "AutoAugment", 2019, table 9): 25 pairs of (what, probability,
# magnitude of 0 to 9). Magnitudes run evenly over the ranges that `_automatic` names.
_POLICIES = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 0)),
    (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
    (("equalize", 0.4, 0), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6, 0)),
    (("posterize", 0.8, 5), ("equalize", 1.0, 0)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6, 0), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("color", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, 0)),
    (("equalize", 0.0, 0), ("equalize", 0.8, 0)),
    (("invert", 0.6, 0), ("equalize", 1.0, 0)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("color", 1.0, 2)),
    (("color", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6, 0)),
    (("shear_x", 0.6, 5), ("equalize", 1.0, 0)),
    (("color", 0.4, 0), ("equalize", 0.6, 0)),
    (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 0)),
    (("invert", 0.6, 0), ("equalize", 1.0, 0)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
)


def auto_augment(rng: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """One of AutoAugment's 25 ImageNet policies, each of its two operations with its own probability."""
    policy = int(rng.integers(len(_POLICIES)))
    applied = []
    for name, probability, magnitude in _POLICIES[policy]:
        if rng.random() < probability:
            sign = 1 if rng.random() < 0.5 else -1
            image = _automatic(image, name, magnitude / 9, sign)
            applied.append([name, magnitude, sign])
    return image, {"policy": policy, "applied": applied}


def _automatic(image: np.ndarray, name: str, magnitude: float, sign: int) -> np.ndarray:
    """One operation of AutoAugment. magnitude: 0 to 1. sign: of those that have one."""
    if name == "posterize":
        return _posterized(image, round(8 - 4 * magnitude))
    if name == "solarize":
        return _look_up(image, _solarized(math.ceil(255 * (1 - magnitude))))
    if name == "autocontrast":
        return _stretched(image, 0)
    if name == "equalize":
        return _equalized(image)
    if name == "invert":
        return cv2.bitwise_not(image)
    if name == "rotate":
        return rotated(image, sign * 30 * magnitude)
    if name == "shear_x":
        return _affine(image, 1.0, sign * 0.3 * magnitude, 0.0, 1.0)
    factor = 1 + sign * 0.9 * magnitude
    if name == "contrast":
        return _contrasted(image, factor)
    if name == "sharpness":
        return _sharpen(image, factor)
    return image if image.ndim == 2 else cv2.merge(kernels.saturate(*cv2.split(image), factor))


ANOMALIB_TEN: dict[str, Augmentation] = {
    "contrast": contrast,
    "photometric_distort": photometric_distort,
    "sharpness": sharpen_twice,
    "hue_saturation": hue_saturation_jitter,
    "solarize": solarize_always,
    "posterize": posterize_4,
    "invert": invert,
    "auto_augment": auto_augment,
    "equalize": equalize,
    "rotate": rotate,
}


def three_of(
    rng: np.random.Generator, image: np.ndarray, augmentations: dict[str, Augmentation]
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Three different ones of them applied in a random order; also what each drew."""
    names = list(augmentations)
    applied: list[dict[str, Any]] = []
    for choice in rng.permutation(len(names))[:3].tolist():
        image, values = augmentations[names[choice]](rng, image)
        applied.append({"name": names[choice], **values})
    return image, applied


def jitter(rng: np.random.Generator, image: np.ndarray, strength: float) -> tuple[np.ndarray, dict[str, Any]]:
    """Brightness, contrast and saturation each times U(1 - strength, 1 + strength); strength 0 to 1."""
    bright, contrast_factor, saturation = rng.uniform(1 - strength, 1 + strength, size=3).tolist()
    drawn = {"brightness": bright, "contrast": contrast_factor, "saturation": saturation}
    # A sum of integers: a sum of floats depends on how the CPU orders it.
    mean = bright * int(image.sum(dtype=np.int64)) / image.size
    pixels = (image.astype(np.float64) * bright - mean) * contrast_factor + mean
    if image.ndim == 3:
        grey = (pixels[:, :, 0] + pixels[:, :, 1] + pixels[:, :, 2])[:, :, None] / 3
        pixels = grey + (pixels - grey) * saturation
    return np.rint(pixels).clip(0, 255).astype(np.uint8), drawn


def shuffle_grid(rng: np.random.Generator, image: np.ndarray, rows: int, columns: int) -> tuple[np.ndarray, list[int]]:
    """Cuts an image into rows x columns cells and shuffles them.

    Sides that the grid does not divide are mirrored up to the next multiple and cut back afterwards.
    """
    height, width = image.shape[:2]
    cell_height, cell_width = math.ceil(height / rows), math.ceil(width / columns)
    padded = cv2.copyMakeBorder(
        image, 0, cell_height * rows - height, 0, cell_width * columns - width, cv2.BORDER_REFLECT
    )
    order = rng.permutation(rows * columns).tolist()
    shuffled = np.empty_like(padded)
    for place, origin in enumerate(order):
        row, column = divmod(place, columns)
        from_row, from_column = divmod(origin, columns)
        top, left = row * cell_height, column * cell_width
        from_top, from_left = from_row * cell_height, from_column * cell_width
        shuffled[top : top + cell_height, left : left + cell_width] = padded[
            from_top : from_top + cell_height, from_left : from_left + cell_width
        ]
    return np.ascontiguousarray(shuffled[:height, :width]), order


def rotated(image: np.ndarray, degrees: float) -> np.ndarray:
    """Turned counter-clockwise about the centre, bilinear; corners that come from outside are black."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return _affine(image, cosine, -sine, sine, cosine)


def _affine(image: np.ndarray, xx: float, xy: float, yx: float, yy: float) -> np.ndarray:
    if image.ndim == 2:
        return kernels.affine(image, xx, xy, yx, yy, 0)
    return cv2.merge([kernels.affine(plane, xx, xy, yx, yy, 0) for plane in cv2.split(image)])


def _sharpen(image: np.ndarray, factor: float) -> np.ndarray:
    channels = 1 if image.ndim == 2 else 3
    return kernels.sharpen(image.reshape(len(image), -1), channels, factor).reshape(image.shape)


def _posterized(image: np.ndarray, bits: int) -> np.ndarray:
    return image & np.uint8(256 - 2 ** (8 - bits))


def _solarized(threshold: int) -> np.ndarray:
    return np.where(threshold <= _LEVELS, 255 - _LEVELS, _LEVELS)


def _histograms(image: np.ndarray) -> np.ndarray:
    return kernels.histograms_grey(image) if image.ndim == 2 else kernels.histograms_rgb(image)


def _contrasted(image: np.ndarray, factor: float) -> np.ndarray:
    counts = _histograms(image)
    means = (counts * _LEVELS).sum(axis=1) / counts.sum(axis=1)
    mean = means[0] if image.ndim == 2 else sum(w * m for w, m in zip(_GREY_WEIGHTS, means, strict=True))
    return _look_up(image, np.rint(mean + factor * (_LEVELS - mean)))


def _stretched(image: np.ndarray, cutoff: int) -> np.ndarray:
    """Each channel stretched so that the levels at `cutoff` % and 100 - `cutoff` % of its pixels become 0 and 255."""
    counts = _histograms(image)
    pixels = int(counts[0].sum())
    tables = np.empty((len(counts), 256))
    for channel, cumulated in enumerate(counts.cumsum(axis=1)):
        # Nearest rank: the level of the pixel at that place in their order.
        low = int(np.searchsorted(cumulated, round(cutoff / 100 * (pixels - 1)), side="right"))
        high = int(np.searchsorted(cumulated, round((1 - cutoff / 100) * (pixels - 1)), side="right"))
        tables[channel] = (_LEVELS - low) * (255.0 / (high - low)) if high > low else _LEVELS
    return _look_up(image, np.rint(tables))


def _equalized(image: np.ndarray) -> np.ndarray:
    if image.ndim == 2:
        return cv2.equalizeHist(image)
    return cv2.merge([cv2.equalizeHist(channel) for channel in cv2.split(image)])


def _look_up(image: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """Map levels by a table of 256, or by one for each channel (channels x 256); values are cut to bytes."""
    table = tables if tables.dtype == np.uint8 else tables.clip(0, 255).astype(np.uint8)
    if table.ndim == 1 or len(table) == 1:
        return cv2.LUT(image, table.reshape(256))
    return cv2.LUT(image, np.ascontiguousarray(table.T).reshape(1, 256, -1))
