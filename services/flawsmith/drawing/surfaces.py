"""Industrial surfaces without defects."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from flawsmith.drawing.noise import (
    FloatArray,
    as_float,
    cells,
    cloud,
    coordinates,
    emboss,
    smooth,
    streaks,
    white,
)

Color = tuple[float, float, float]

METAL_COLORS: dict[str, Color] = {
    "grey": (0.55, 0.56, 0.57),
    "silver": (0.70, 0.71, 0.72),
    "dark grey": (0.36, 0.37, 0.38),
    "copper": (0.68, 0.45, 0.34),
    "brass": (0.70, 0.60, 0.36),
    "bluish": (0.50, 0.55, 0.62),
}
COLORS: dict[str, dict[str, Color]] = {
    "brushed metal": METAL_COLORS,
    "cast metal": {
        "grey": (0.47, 0.47, 0.46),
        "dark grey": (0.33, 0.33, 0.34),
        "silver": (0.60, 0.60, 0.60),
        "brown": (0.43, 0.37, 0.33),
    },
    "ground metal": METAL_COLORS,
    "wood": {
        "brown": (0.55, 0.38, 0.24),
        "light brown": (0.74, 0.58, 0.40),
        "dark brown": (0.38, 0.26, 0.18),
        "red": (0.56, 0.31, 0.21),
    },
    "fabric": {
        "grey": (0.52, 0.52, 0.53),
        "blue": (0.29, 0.38, 0.58),
        "green": (0.33, 0.48, 0.36),
        "red": (0.62, 0.27, 0.27),
        "white": (0.80, 0.79, 0.76),
        "beige": (0.72, 0.65, 0.52),
    },
    "leather": {
        "brown": (0.46, 0.31, 0.21),
        "light brown": (0.66, 0.48, 0.32),
        "black": (0.27, 0.26, 0.26),
        "red": (0.52, 0.22, 0.20),
        "beige": (0.73, 0.65, 0.54),
    },
    "ceramic": {
        "white": (0.83, 0.83, 0.82),
        "beige": (0.78, 0.72, 0.62),
        "blue": (0.45, 0.57, 0.70),
        "green": (0.50, 0.66, 0.57),
        "grey": (0.60, 0.61, 0.62),
    },
    "plastic": {
        "black": (0.27, 0.27, 0.28),
        "white": (0.82, 0.82, 0.82),
        "red": (0.68, 0.24, 0.22),
        "blue": (0.24, 0.39, 0.66),
        "green": (0.27, 0.54, 0.34),
        "yellow": (0.78, 0.68, 0.28),
        "grey": (0.52, 0.53, 0.54),
    },
    "concrete": {
        "grey": (0.56, 0.56, 0.54),
        "light grey": (0.70, 0.69, 0.67),
        "dark grey": (0.41, 0.41, 0.40),
        "beige": (0.66, 0.61, 0.53),
    },
}


@dataclass(frozen=True)
class Surface:
    """What a surface is: its kind and colour (names), its direction in radians and how strong its texture is."""

    kind: str
    color: str
    direction: float
    strength: float


def random_surface(rng: np.random.Generator, kind: str | None = None, color: str | None = None) -> Surface:
    """A surface drawn at random; `kind` and `color` may be fixed.

    Raises:
        ValueError: an unknown kind, or a colour that this kind does not have.
    """
    if kind is not None and kind not in COLORS:
        raise ValueError(f"unknown surface {kind!r}, expected one of {', '.join(COLORS)}")
    chosen = kind or str(rng.choice(list(COLORS)))
    if color is not None and color not in COLORS[chosen]:
        raise ValueError(f"{chosen} has no color {color!r}, expected one of {', '.join(COLORS[chosen])}")
    # Parts lie straight in a fixture far more often than not.
    straight = float(rng.choice([0.0, np.pi / 2])) + rng.normal(0, 0.03)
    direction = straight if rng.random() < 0.7 else rng.uniform(0, np.pi)
    return Surface(
        kind=chosen,
        color=color or str(rng.choice(list(COLORS[chosen]))),
        direction=float(direction),
        strength=float(rng.uniform(0.6, 1.3)),
    )


def draw_surface(surface: Surface, rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """The surface as an RGB float32 image in [0, 1], height x width x 3."""
    color = np.asarray(COLORS[surface.kind][surface.color], dtype=np.float32)
    color = np.clip(color * rng.uniform(0.9, 1.1) + rng.normal(0, 0.012, 3), 0.05, 0.95).astype(np.float32)
    luminance, tint = _DRAW[surface.kind](surface, rng, height, width)
    luminance = luminance + _lighting(rng, height, width, _GLOSS[surface.kind])
    image = color * (1 + luminance[..., None]) + tint[..., None] * np.float32([1.0, 0.55, 0.2])
    # Lens and sensor: a soft point spread and a little noise.
    image = as_float(cv2.GaussianBlur(as_float(image), (3, 3), 0.55, borderType=cv2.BORDER_REFLECT))
    image += np.float32(0.006) * white(rng, height, width)[..., None]
    return as_float(np.clip(image, 0, 1))


def _lighting(rng: np.random.Generator, height: int, width: int, gloss: float) -> FloatArray:
    """Uneven light: a slope across the image and, on glossy surfaces, a broad reflection."""
    y, x = coordinates(height, width)
    angle = rng.uniform(0, 2 * np.pi)
    along = np.cos(angle) * (x / width - 0.5) + np.sin(angle) * (y / height - 0.5)
    light = rng.uniform(0, 0.22) * along
    position, spread = rng.uniform(-0.7, 0.7), rng.uniform(0.15, 0.4)
    light = light + gloss * rng.uniform(0, 1) * np.exp(-0.5 * ((along - position) / spread) ** 2)
    return as_float(light)


# Each of these returns (luminance, tint): the relative change of brightness, and the warm tint added to it.
Layers = tuple[FloatArray, FloatArray]


def _brushed(surface: Surface, rng: np.random.Generator, height: int, width: int) -> Layers:
    fine = streaks(rng, height, width, rng.uniform(60, 160), rng.uniform(1.0, 1.6), surface.direction)
    broad = streaks(rng, height, width, rng.uniform(150, 400), rng.uniform(3, 9), surface.direction)
    grain = smooth(rng, height, width, 1.3, 1.3)
    strength = np.float32(surface.strength)
    return strength * (0.055 * fine + 0.045 * broad + 0.012 * grain), np.zeros_like(fine)


def _cast(surface: Surface, rng: np.random.Generator, height: int, width: int) -> Layers:
    relief = cloud(rng, height, width, rng.uniform(3, 7), 3, 0.6)
    mottling = cloud(rng, height, width, 24, 3)
    shading = emboss(relief, rng.uniform(0, 2 * np.pi))
    return np.float32(surface.strength) * (0.22 * shading + 0.06 * mottling), as_float(0.006 * mottling)


def _ground(surface: Surface, rng: np.random.Generator, height: int, width: int) -> Layers:
    total = np.zeros((height, width), dtype=np.float32)
    # Each pass of the wheel leaves its own marks at a slightly different angle.
    for spread in (-0.16, 0.0, 0.16):
        angle = surface.direction + spread + rng.normal(0, 0.05)
        total += streaks(rng, height, width, rng.uniform(14, 40), rng.uniform(1.2, 2.2), angle)
    chatter = streaks(rng, height, width, rng.uniform(80, 200), rng.uniform(6, 14), surface.direction + np.pi / 2)
    return np.float32(surface.strength) * (0.05 * total + 0.03 * chatter), np.zeros_like(total)


def _wood(surface: Surface, rng: np.random.Generator, height: int, width: int) -> Layers:
    y, x = coordinates(height, width)
    cos, sin = np.cos(surface.direction), np.sin(surface.direction)
    across = -sin * x + cos * y
    along = cos * x + sin * y
    bend = rng.uniform(4, 14) * np.sin(along / rng.uniform(60, 160) + rng.uniform(0, 6))
    wander = 5.0 * streaks(rng, height, width, 90, 16, surface.direction)
    period = rng.uniform(7, 16)
    phase = (across + bend + wander) / period
    # Latewood: the brightness falls slowly over a ring and recovers at once.
    ring = as_float((phase - np.floor(phase)) ** 2)
    ring = as_float(cv2.GaussianBlur(ring, (3, 3), 0.8))
    fibres = streaks(rng, height, width, 30, 1.3, surface.direction)
    pores = as_float(np.clip(streaks(rng, height, width, 14, 1.2, surface.direction) - 1.6, 0, 1))
    luminance = np.float32(surface.strength) * (-0.28 * (ring - 0.33) + 0.05 * fibres) - 0.25 * pores
    return as_float(luminance), as_float(-0.02 * (ring - 0.33))


def _fabric(surface: Surface, rng: np.random.Generator, height: int, width: int) -> Layers:
    y, x = coordinates(height, width)
    y = y + 0.7 * smooth(rng, height, width, 28, 28)
    x = x + 0.7 * smooth(rng, height, width, 28, 28)
    turn = surface.direction if rng.random() < 0.5 else 0.0
    across, along = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    pitch = rng.uniform(4.5, 8)
    u, v = across / pitch, along / pitch
    # Plain weave or twill: which thread lies on top alternates from crossing to crossing.
    step = int(rng.integers(2, 4))
    over = (np.floor(u) + np.floor(v)) % step < step / 2
    warp = np.abs(np.sin(np.pi * u)) ** 0.7 * (0.72 + 0.28 * np.sin(np.pi * (v - np.floor(v))))
    weft = np.abs(np.sin(np.pi * v)) ** 0.7 * (0.72 + 0.28 * np.sin(np.pi * (u - np.floor(u))))
    thread = as_float(np.where(over, warp, weft * 0.86))
    uneven = streaks(rng, height, width, 60, pitch, turn) + streaks(rng, height, width, 60, pitch, turn + np.pi / 2)
    luminance = np.float32(surface.strength) * (0.5 * (thread - 0.62)) + 0.03 * uneven
    return as_float(luminance), np.zeros_like(thread)


def _leather(surface: Surface, rng: np.random.Generator, height: int, width: int) -> Layers:
    size = rng.uniform(6, 12)
    pebbles = cells(rng, height, width, size)
    pebbles = as_float(cv2.GaussianBlur(pebbles, (0, 0), 0.9))
    creases = -np.abs(cloud(rng, height, width, 3 * size, 3))
    light = rng.uniform(0, 2 * np.pi)
    shading = emboss(as_float(pebbles + 0.35 * creases), light)
    mottling = cloud(rng, height, width, 40, 2)
    luminance = np.float32(surface.strength) * (0.9 * shading + 0.22 * (pebbles - 0.6)) + 0.05 * mottling
    return as_float(luminance), as_float(0.008 * mottling)


def _ceramic(surface: Surface, rng: np.random.Generator, height: int, width: int) -> Layers:
    haze = cloud(rng, height, width, 40, 3)
    speckle = smooth(rng, height, width, 2.2, 2.2)
    speckled = np.float32(rng.choice([0.0, 0.0, 0.10])) * np.clip(speckle - 1.7, 0, 1.2)
    return as_float(surface.strength * 0.02 * haze - speckled), as_float(0.006 * haze)


def _plastic(surface: Surface, rng: np.random.Generator, height: int, width: int) -> Layers:
    peel = emboss(cloud(rng, height, width, rng.uniform(2.5, 5), 2, 0.6), rng.uniform(0, 2 * np.pi))
    return as_float(surface.strength * 0.10 * peel), np.zeros_like(peel)


def _concrete(surface: Surface, rng: np.random.Generator, height: int, width: int) -> Layers:
    blotches = cloud(rng, height, width, 48, 5, 0.65)
    sand = smooth(rng, height, width, 1.5, 1.5)
    pores = np.clip(smooth(rng, height, width, 4, 4) - 2.0, 0, 1)
    luminance = np.float32(surface.strength) * (0.07 * blotches + 0.05 * sand) - 0.35 * pores
    return as_float(luminance), as_float(0.006 * blotches)


_DRAW: dict[str, Callable[[Surface, np.random.Generator, int, int], Layers]] = {
    "brushed metal": _brushed,
    "cast metal": _cast,
    "ground metal": _ground,
    "wood": _wood,
    "fabric": _fabric,
    "leather": _leather,
    "ceramic": _ceramic,
    "plastic": _plastic,
    "concrete": _concrete,
}
_GLOSS = {
    "brushed metal": 0.22,
    "cast metal": 0.06,
    "ground metal": 0.16,
    "wood": 0.06,
    "fabric": 0.0,
    "leather": 0.08,
    "ceramic": 0.12,
    "plastic": 0.16,
    "concrete": 0.0,
}
SURFACES: tuple[str, ...] = tuple(COLORS)
