"""Augmentations of a texture or of the image itself, of which methods draw three of ten.

Each takes (rng, channels of the image: 1 or 3) and returns (the changes that it makes, what was drawn). Drawing changes
nothing yet, so that changes can be confined to the few pixels that are wanted, see `Picture`. `IMGAUG_TEN` are those
of MemSeg, DRAEM and RealNet with imgaug's definitions and ranges, `ANOMALIB_TEN` those of anomalib with torchvision's.
The public code of both draws solarize's threshold once for a whole run; here it is drawn for every image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from flawsmith.augmentation import kernels


@dataclass(frozen=True)
class Change:
    """What is done to an image; images are uint8, height x width grey or height x width x 3 RGB.

    of_image: does it to a whole image. at: (image, places) -> the pixels that `of_image` has at these places, as `take`
    gives them; None where what a pixel becomes depends on itself alone, so that `of_image` takes any pixels.
    """

    of_image: Callable[[np.ndarray], np.ndarray]
    at: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None


@dataclass(frozen=True)
class Picture:
    """An image, height x width grey or height x width x 3 RGB, and the changes yet to be made of it, in their order."""

    image: np.ndarray
    changes: tuple[Change, ...] = ()

    def then(self, changes: tuple[Change, ...]) -> Picture:
        """The picture with more changes."""
        return Picture(self.image, self.changes + changes)

    def whole(self) -> np.ndarray:
        """With the changes made."""
        image = self.image
        for change in self.changes:
            image = change.of_image(image)
        return image

    def at(self, places: np.ndarray) -> np.ndarray:
        """The pixels of `whole` at some places, as `take` gives them, while changing no more than that takes."""
        if not self.changes:
            return take(self.image, places)
        before, last = Picture(self.image, self.changes[:-1]), self.changes[-1]
        if last.at is None:
            return last.of_image(before.at(places))
        return last.at(before.whole(), places)


Drawn = tuple[tuple[Change, ...], dict[str, Any]]
Augmentation = Callable[[np.random.Generator, int], Drawn]
_LEVELS = np.arange(256, dtype=np.int64)
_GREY_WEIGHTS = (0.299, 0.587, 0.114)


def gamma_contrast(rng: np.random.Generator, channels: int) -> Drawn:
    """`255 * (v / 255) ** gamma`, gamma in U(0.5, 2) for each channel."""
    gammas = rng.uniform(0.5, 2.0, size=channels)
    return (by_table(kernels.gamma_tables(gammas)),), {"gamma": gammas.tolist()}


def brightness(rng: np.random.Generator, channels: int) -> Drawn:
    """HSV's value times U(0.8, 1.2) plus U(-30, 30)."""
    factor, offset = float(rng.uniform(0.8, 1.2)), float(rng.uniform(-30, 30))
    values = np.rint(_LEVELS * factor + offset).clip(0, 255).astype(np.int64)
    change = by_table(values) if channels == 1 else Change(lambda image: kernels.set_value(image, values))
    return (change,), {"factor": factor, "offset": offset}


def sharpness(rng: np.random.Generator, channels: int) -> Drawn:
    """Pillow's sharpness with a factor in U(0, 2): 0 smooths, 1 changes nothing, 2 sharpens."""
    factor = float(rng.uniform(0.0, 2.0))
    return (_sharpened(factor),), {"factor": factor}


def hue_and_saturation(rng: np.random.Generator, channels: int) -> Drawn:
    """Hue turned and saturation raised, each by its own integer of -50 to 50 of 255; grey stays grey.

    As imgaug counts, 255 is half a turn of the hue, and the whole range of the saturation.
    """
    turn, raised = int(rng.integers(-50, 51)), int(rng.integers(-50, 51))
    return _hue_shifted(channels, turn / 255 * 3, 1.0, raised / 255), {"hue": turn, "saturation": raised}


def solarize(rng: np.random.Generator, channels: int) -> Drawn:
    """With p = 0.5, values from a threshold of 32 to 128 upwards are inverted."""
    if rng.random() >= 0.5:
        return (), {"applied": False}
    threshold = int(rng.integers(32, 129))
    return (_solarized(threshold),), {"applied": True, "threshold": threshold}


def posterize(rng: np.random.Generator, channels: int) -> Drawn:
    """Keeps the upper 1 to 8 bits."""
    bits = int(rng.integers(1, 9))
    return (_posterized(bits),), {"bits": bits}


def invert(rng: np.random.Generator, channels: int) -> Drawn:
    """`255 - v`."""
    return (Change(cv2.bitwise_not),), {}


def autocontrast(rng: np.random.Generator, channels: int) -> Drawn:
    """Stretches each channel over 0-255 after cutting 0 to 20 % off either end of its histogram."""
    cutoff = int(rng.integers(0, 21))
    return (_stretched(cutoff),), {"cutoff_percent": cutoff}


def equalize(rng: np.random.Generator, channels: int) -> Drawn:
    """Histogram equalisation of each channel."""
    return (EQUALIZED,), {}


def rotate(rng: np.random.Generator, channels: int) -> Drawn:
    """Rotation about the centre by U(-45, 45) degrees; corners that come from outside are black."""
    degrees = float(rng.uniform(-45.0, 45.0))
    return (rotated(degrees),), {"degrees": degrees}


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


def contrast(rng: np.random.Generator, channels: int) -> Drawn:
    """`m + factor (v - m)`, m the mean grey level, factor in U(0.5, 2)."""
    factor = float(rng.uniform(0.5, 2.0))
    return (_contrasted(factor),), {"factor": factor}


def photometric_distort(rng: np.random.Generator, channels: int) -> Drawn:
    """Brightness times U(0.8, 1.2), and the channels permuted."""
    factor = float(rng.uniform(0.8, 1.2))
    order = rng.permutation(3).tolist()
    lit = by_table(np.rint(_LEVELS * factor))
    permuted = Change(lambda image: np.ascontiguousarray(image[:, :, order]))
    return (lit, permuted) if channels == 3 else (lit,), {"factor": factor, "channels": order}


def sharpen_twice(rng: np.random.Generator, channels: int) -> Drawn:
    """Pillow's sharpness with a factor of 2."""
    return (_sharpened(2.0),), {"factor": 2.0}


def hue_saturation_jitter(rng: np.random.Generator, channels: int) -> Drawn:
    """Saturation times U(0.5, 1.5) and hue turned by U(-50, 50) degrees; grey stays grey."""
    factor, degrees = float(rng.uniform(0.5, 1.5)), float(rng.uniform(-50.0, 50.0))
    return _hue_shifted(channels, degrees / 60, factor, 0.0), {"saturation": factor, "hue_degrees": degrees}


def solarize_always(rng: np.random.Generator, channels: int) -> Drawn:
    """Values from a threshold in U(32, 128) upwards are inverted."""
    threshold = int(rng.integers(32, 129))
    return (_solarized(threshold),), {"threshold": threshold}


def posterize_4(rng: np.random.Generator, channels: int) -> Drawn:
    """Keeps the upper 4 bits."""
    return (_posterized(4),), {"bits": 4}


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


def auto_augment(rng: np.random.Generator, channels: int) -> Drawn:
    """One of AutoAugment's 25 ImageNet policies, each of its two operations with its own probability."""
    policy = int(rng.integers(len(_POLICIES)))
    changes: tuple[Change, ...] = ()
    applied = []
    for name, probability, magnitude in _POLICIES[policy]:
        if rng.random() < probability:
            sign = 1 if rng.random() < 0.5 else -1
            changes += _automatic(channels, name, magnitude / 9, sign)
            applied.append([name, magnitude, sign])
    return changes, {"policy": policy, "applied": applied}


def _automatic(channels: int, name: str, magnitude: float, sign: int) -> tuple[Change, ...]:
    """One operation of AutoAugment. magnitude: 0 to 1. sign: of those that have one."""
    factor = 1 + sign * 0.9 * magnitude
    if name == "color":
        return () if channels == 1 else (Change(lambda image: cv2.merge(kernels.saturate(*cv2.split(image), factor))),)
    operations: dict[str, Callable[[], Change]] = {
        "posterize": lambda: _posterized(round(8 - 4 * magnitude)),
        "solarize": lambda: _solarized(math.ceil(255 * (1 - magnitude))),
        "autocontrast": lambda: _stretched(0),
        "equalize": lambda: EQUALIZED,
        "invert": lambda: Change(cv2.bitwise_not),
        "rotate": lambda: rotated(sign * 30 * magnitude),
        "shear_x": lambda: _affine(1.0, sign * 0.3 * magnitude, 0.0, 1.0),
        "contrast": lambda: _contrasted(factor),
        "sharpness": lambda: _sharpened(factor),
    }
    return (operations[name](),)


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
    rng: np.random.Generator, channels: int, augmentations: dict[str, Augmentation]
) -> tuple[tuple[Change, ...], list[dict[str, Any]]]:
    """Three different ones of them in a random order: the changes that they make, and what each drew."""
    names = list(augmentations)
    changes: tuple[Change, ...] = ()
    applied: list[dict[str, Any]] = []
    for choice in rng.permutation(len(names))[:3].tolist():
        more, values = augmentations[names[choice]](rng, channels)
        changes += more
        applied.append({"name": names[choice], **values})
    return changes, applied


def take(image: np.ndarray, places: np.ndarray) -> np.ndarray:
    """An image's pixels at some places (`row * width + column`, int32): 1 x places, x 3 where it is RGB."""
    return kernels.take(_with_channels(image), places).reshape(1, len(places), *image.shape[2:])


def channels_of(image: np.ndarray) -> int:
    """1 of height x width, 3 of height x width x 3."""
    return 1 if image.ndim == 2 else 3


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


def shuffle_grid(
    rng: np.random.Generator, places: np.ndarray, size: tuple[int, int], rows: int, columns: int
) -> tuple[np.ndarray, list[int]]:
    """Cuts an image into rows x columns cells and shuffles them. Returns the places that the pixels at `places`
    (ascending) come from, and each cell's origin.

    size: height and width. Sides that the grid does not divide are mirrored up to the next multiple and cut back
    afterwards.
    """
    order = rng.permutation(rows * columns)
    return kernels.shuffled_places(places, *size, order.reshape(rows, columns)), order.tolist()


def rotated(degrees: float) -> Change:
    """Turned counter-clockwise about the centre, bilinear; corners that come from outside are black."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return _affine(cosine, -sine, sine, cosine)


def _affine(xx: float, xy: float, yx: float, yy: float) -> Change:
    def of_image(image: np.ndarray) -> np.ndarray:
        if image.ndim == 2:
            return kernels.affine(image, xx, xy, yx, yy, 0)
        return cv2.merge([kernels.affine(plane, xx, xy, yx, yy, 0) for plane in cv2.split(image)])

    def at(image: np.ndarray, places: np.ndarray) -> np.ndarray:
        pixels = kernels.affine_at(_with_channels(image), places, xx, xy, yx, yy, 0)
        return pixels.reshape(1, len(places), *image.shape[2:])

    return Change(of_image, at)


def _sharpened(factor: float) -> Change:
    def of_image(image: np.ndarray) -> np.ndarray:
        return kernels.sharpen(image.reshape(len(image), -1), channels_of(image), factor).reshape(image.shape)

    return Change(of_image, lambda image, places: take(of_image(image), places))


def _hue_shifted(channels: int, turn: float, factor: float, offset: float) -> tuple[Change, ...]:
    """Arguments of `kernels.shift_hue`; grey has no hue."""
    if channels == 1:
        return ()
    return (Change(lambda image: cv2.merge(kernels.shift_hue(*cv2.split(image), turn, factor, offset))),)


def by_table(tables: np.ndarray) -> Change:
    """Levels mapped by a table of 256, or by one for each channel (channels x 256); values are cut to bytes."""
    return Change(lambda image: _look_up(image, tables))


def _posterized(bits: int) -> Change:
    return Change(lambda image: image & np.uint8(256 - 2 ** (8 - bits)))


def _solarized(threshold: int) -> Change:
    return by_table(np.where(threshold <= _LEVELS, 255 - _LEVELS, _LEVELS))


def _by_counts(tables: Callable[[np.ndarray], np.ndarray]) -> Change:
    """By tables (of `_look_up`) made from how often each level occurs in the whole image (channels x 256)."""

    def at(image: np.ndarray, places: np.ndarray) -> np.ndarray:
        return _look_up(take(image, places), tables(_histograms(image)))

    return Change(lambda image: _look_up(image, tables(_histograms(image))), at)


def _contrasted(factor: float) -> Change:
    def table(counts: np.ndarray) -> np.ndarray:
        means = (counts * _LEVELS).sum(axis=1) / counts.sum(axis=1)
        mean = means[0] if len(means) == 1 else sum(w * m for w, m in zip(_GREY_WEIGHTS, means, strict=True))
        return np.rint(mean + factor * (_LEVELS - mean))

    return _by_counts(table)


def _stretched(cutoff: int) -> Change:
    """Each channel stretched so that the levels at `cutoff` % and 100 - `cutoff` % of its pixels become 0 and 255."""

    def tables(counts: np.ndarray) -> np.ndarray:
        pixels = int(counts[0].sum())
        stretched = np.empty((len(counts), 256))
        for channel, cumulated in enumerate(counts.cumsum(axis=1)):
            # Nearest rank: the level of the pixel at that place in their order.
            low = int(np.searchsorted(cumulated, round(cutoff / 100 * (pixels - 1)), side="right"))
            high = int(np.searchsorted(cumulated, round((1 - cutoff / 100) * (pixels - 1)), side="right"))
            stretched[channel] = (_LEVELS - low) * (255.0 / (high - low)) if high > low else _LEVELS
        return np.rint(stretched)

    return _by_counts(tables)


def _equalizing_tables(counts: np.ndarray) -> np.ndarray:
    """As OpenCV's equalizeHist: the lowest level that occurs becomes 0; the shares of the others add up to 255."""
    tables = np.empty((len(counts), 256), np.uint8)
    for channel, of_level in enumerate(counts):
        lowest = int(np.flatnonzero(of_level)[0])
        above = np.concatenate([np.zeros(lowest + 1, np.int64), of_level[lowest + 1 :]]).cumsum()
        if above[-1] == 0:  # a single level stays
            tables[channel] = lowest
        else:
            tables[channel] = np.rint(above.astype(np.float32) * (np.float32(255) / np.float32(above[-1])))
    return tables


EQUALIZED = _by_counts(_equalizing_tables)


def _histograms(image: np.ndarray) -> np.ndarray:
    return kernels.histograms_grey(image) if image.ndim == 2 else kernels.histograms_rgb(image)


def _look_up(image: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """Map levels by a table of 256, or by one for each channel (channels x 256); values are cut to bytes."""
    table = tables if tables.dtype == np.uint8 else tables.clip(0, 255).astype(np.uint8)
    if table.ndim == 1 or len(table) == 1:
        return cv2.LUT(image, table.reshape(256))
    return cv2.LUT(image, np.ascontiguousarray(table.T).reshape(1, 256, -1))


def _with_channels(image: np.ndarray) -> np.ndarray:
    """Height x width x 1 or 3, as kernels for both take it."""
    return image.reshape(*image.shape[:2], -1)
