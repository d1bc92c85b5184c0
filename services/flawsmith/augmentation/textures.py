"""Procedural textures, so that nothing has to be downloaded: no two draws look alike.

Everything is whole-number arithmetic on noise of `kernels`, and so gives the same bytes on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from flawsmith.augmentation import kernels
from flawsmith.augmentation.perlin import draw_noise
from flawsmith.augmentation.photometric import EQUALIZED, Change, Picture


def procedural_texture(rng: np.random.Generator, height: int, width: int) -> tuple[Picture, dict[str, Any]]:
    """A random texture, height x width x 3 RGB once its changes are made; and which kind and grain it is.

    grain: size of the coarsest detail, pixels; log-uniform from 6 pixels to a third of the shorter side.
    """
    kind = str(list(_KINDS)[int(rng.integers(len(_KINDS)))])
    coarsest = max(min(height, width) / 3, 12.0)
    grain = 6.0 * (coarsest / 6.0) ** float(rng.random())
    field = _KINDS[kind](rng, height, width, grain)
    # Two to five random colours.
    palette = kernels.palette(rng.integers(0, 256, size=(int(rng.integers(2, 6)), 3)))
    # Every level is used alike, so that the whole palette shows.
    changes = (EQUALIZED, Change(lambda levels: kernels.paint(levels, palette)))
    return Picture(field, changes), {"texture": kind, "grain": grain}


def _noise(rng: np.random.Generator, height: int, width: int, down: float, across: float) -> np.ndarray:
    """Noise with details of down x across pixels, as bytes around 128."""
    noise = draw_noise(rng, height, width, height / min(down, height), width / min(across, width))
    return noise.as_bytes(160.0, 128.0)[0]


def _cloud(rng: np.random.Generator, height: int, width: int, grain: float) -> np.ndarray:
    """Three octaves of noise."""
    octaves = (_noise(rng, height, width, grain / 2**octave, grain / 2**octave) for octave in range(3))
    return kernels.mix(tuple(octaves), (4, 3, 2))


def _streaks(rng: np.random.Generator, height: int, width: int, grain: float) -> np.ndarray:
    """Noise drawn out along one axis, as brushing and grinding leave it."""
    fine = max(grain / 6, 1.5)
    long, short = 4 * grain, fine
    first = _noise(rng, height, width, *((long, short) if rng.random() < 0.5 else (short, long)))
    return kernels.mix((first, _noise(rng, height, width, grain, grain)), (5, 2))


def _ridges(rng: np.random.Generator, height: int, width: int, grain: float) -> np.ndarray:
    """Veins where noise passes through its mean."""
    field = kernels.mix(
        (_noise(rng, height, width, grain, grain), _noise(rng, height, width, grain / 3, grain / 3)), (3, 1)
    )
    levels = np.arange(256)
    return cv2.LUT(field, (255 - (np.abs(levels - 128) * 4).clip(0, 255)).astype(np.uint8))


def _waves(rng: np.random.Generator, height: int, width: int, grain: float) -> np.ndarray:
    """Parallel bands at any angle, bent by noise."""
    return _bands(rng, height, width, grain)


def _weave(rng: np.random.Generator, height: int, width: int, grain: float) -> np.ndarray:
    """Two systems of bands across each other."""
    angle = float(rng.uniform(0.0, math.pi))
    warp = _bands(rng, height, width, max(grain / 2, 6.0), angle)
    weft = _bands(rng, height, width, max(grain / 2, 6.0), angle + math.pi / 2)
    return cv2.absdiff(warp, weft) if rng.random() < 0.5 else cv2.max(warp, weft)


def _terraces(rng: np.random.Generator, height: int, width: int, grain: float) -> np.ndarray:
    """Patches of a few even levels with hard edges."""
    levels = np.arange(256)
    steps = int(rng.integers(3, 8))
    table = (levels * steps // 256 * 255 // (steps - 1)).astype(np.uint8)
    patches = cv2.LUT(cv2.equalizeHist(_cloud(rng, height, width, grain)), table)
    return kernels.mix((patches, _noise(rng, height, width, 3, 3)), (7, 1))


def _grains(rng: np.random.Generator, height: int, width: int, grain: float) -> np.ndarray:
    """Fine speckle over a soft ground, as sand and cast metal have it."""
    fine = rng.integers(0, 256, size=(height, width), dtype=np.uint8)
    speckle = cv2.blur(fine, (3, 3)) if rng.random() < 0.5 else fine
    return kernels.mix((speckle, _noise(rng, height, width, grain, grain)), (1, 1))


_KINDS: dict[str, Callable[[np.random.Generator, int, int, float], np.ndarray]] = {
    "cloud": _cloud,
    "streaks": _streaks,
    "ridges": _ridges,
    "waves": _waves,
    "weave": _weave,
    "terraces": _terraces,
    "grains": _grains,
}


def _bands(rng: np.random.Generator, height: int, width: int, period: float, angle: float | None = None) -> np.ndarray:
    """Bands of `period` pixels, bent by noise, at any angle where none is given."""
    turned = float(rng.uniform(0.0, math.pi)) if angle is None else angle
    per_pixel = 65536.0 / period
    across, down = round(math.cos(turned) * per_pixel), round(math.sin(turned) * per_pixel)
    field = _noise(rng, height, width, 3 * period, 3 * period)
    return kernels.bands(field, across, down, int(rng.integers(0, 512)))
