"""Defects drawn into a surface, each with the exact mask of the pixels that it changes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from flawsmith.drawing.noise import FloatArray, as_float, cloud, coordinates, emboss, smooth

# Lines are drawn on a canvas this many times finer, with this many fractional bits for their coordinates.
_FINER = 2
_SHIFT = 4
# What a defect's drawing gives: cover (height x width, in [0, 1]) and the painted image beneath it.
Layer: TypeAlias = tuple[FloatArray, FloatArray]
# A defect belongs to the mask where it covers at least this part of a pixel.
_COVERED = 0.2


@dataclass(frozen=True)
class Defect:
    """What a defect is.

    Attributes:
        kind: one of DEFECTS, not "none".
        size: length or diameter as a part of the image's short side, in (0, 1].
        direction: radians from the horizontal.
        severity: contrast in (0, 1]; 1 is glaring.
        tone: "dark" or "bright"; for a stain one of STAIN_COLORS.
        center: (y, x) as parts of height and width.
    """

    kind: str
    size: float
    direction: float
    severity: float
    tone: str
    center: tuple[float, float]


STAIN_COLORS: dict[str, tuple[float, float, float]] = {
    "dark": (0.10, 0.10, 0.11),
    "brown": (0.36, 0.22, 0.10),
    "rusty": (0.58, 0.27, 0.10),
    "bright": (0.93, 0.92, 0.88),
}
# Range of each kind's `Defect.size`.
SIZES: dict[str, tuple[float, float]] = {
    "scratch": (0.30, 0.95),
    "crack": (0.35, 0.95),
    "hole": (0.12, 0.34),
    "pit": (0.05, 0.10),
    "stain": (0.20, 0.55),
    "dent": (0.18, 0.42),
    "chip": (0.20, 0.45),
}
DEFECTS: tuple[str, ...] = (*SIZES, "none")


def random_defect(rng: np.random.Generator, kind: str | None = None) -> Defect:
    """A defect drawn at random; `kind` may be fixed.

    Raises:
        ValueError: an unknown kind, or "none".
    """
    if kind is not None and kind not in SIZES:
        raise ValueError(f"unknown defect {kind!r}, expected one of {', '.join(SIZES)}")
    chosen = kind or str(rng.choice(list(SIZES)))
    low, high = SIZES[chosen]
    tone = "dark"
    if chosen in ("scratch", "chip"):
        tone = str(rng.choice(["dark", "bright"]))
    elif chosen == "stain":
        tone = str(rng.choice(list(STAIN_COLORS)))
    return Defect(
        kind=chosen,
        size=float(rng.uniform(low, high)),
        direction=float(rng.uniform(0, np.pi)),
        severity=float(rng.uniform(0.55, 1.0)),
        tone=tone,
        center=(float(rng.uniform(0.25, 0.75)), float(rng.uniform(0.25, 0.75))),
    )


def draw_defect(
    image: FloatArray, defect: Defect, rng: np.random.Generator
) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Draws one defect into an RGB float32 image in [0, 1], height x width x 3.

    Returns:
        The changed image (the input stays as it was) and its mask, bool, height x width: never empty, and every
        pixel outside it has exactly the input's value.
    """
    cover, painted = _DRAW[defect.kind](image, defect, rng)
    mask = cover >= _COVERED
    if not mask.any():
        # Images only a few pixels wide can lose all of a thin line between two pixels.
        mask[np.unravel_index(int(np.argmax(cover)), cover.shape)] = True
        cover = np.maximum(cover, mask)
    cover = as_float(np.where(mask, cover, 0))[..., None]
    changed = np.clip(image + cover * (painted - image), 0, 1)
    return as_float(np.where(mask[..., None], changed, image)), mask


def _short_side(image: FloatArray) -> float:
    return float(min(image.shape[:2]))


def _middle(image: FloatArray, defect: Defect) -> npt.NDArray[np.float64]:
    """The defect's centre as (x, y) in pixels."""
    return np.array([defect.center[1] * image.shape[1], defect.center[0] * image.shape[0]])


def _lines(image: FloatArray, paths: list[npt.NDArray[np.float64]], thicknesses: list[float]) -> FloatArray:
    """Cover of anti-aliased polylines; each path is points x (x, y) in pixels, thickness in pixels."""
    height, width = image.shape[:2]
    canvas = np.zeros((height * _FINER, width * _FINER), dtype=np.uint8)
    for path, thickness in zip(paths, thicknesses, strict=True):
        points = np.round(path * _FINER * 2**_SHIFT).astype(np.int32).reshape(-1, 1, 2)
        cv2.polylines(canvas, [points], False, 255, max(1, round(thickness * _FINER)), cv2.LINE_AA, _SHIFT)
    return as_float(cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)) / np.float32(255)


def _blob(
    image: FloatArray, defect: Defect, rng: np.random.Generator, radius: float, ragged: float, stretch: float
) -> FloatArray:
    """A ragged ellipse as a signed field: 1 in its middle, 0 on its outline, negative outside."""
    height, width = image.shape[:2]
    y, x = coordinates(height, width)
    middle = _middle(image, defect)
    dx, dy = x - np.float32(middle[0]), y - np.float32(middle[1])
    cos, sin = np.float32(np.cos(defect.direction)), np.float32(np.sin(defect.direction))
    along, across = (cos * dx + sin * dy) / stretch, -sin * dx + cos * dy
    distance = np.sqrt(along**2 + across**2) / radius
    wobble = cloud(rng, height, width, max(radius * 0.8, 2.0), 3)
    # No wobble in the very middle, so that the blob always has one.
    return as_float(1 - distance + ragged * wobble * np.clip(distance, 0, 1))


def _scratch(image: FloatArray, defect: Defect, rng: np.random.Generator) -> Layer:
    side = _short_side(image)
    middle = _middle(image, defect)
    heading = np.array([np.cos(defect.direction), np.sin(defect.direction)])
    normal = np.array([-heading[1], heading[0]])
    paths, thicknesses = [], []
    for index in range(int(rng.choice([1, 1, 1, 2, 3]))):
        t = np.linspace(-0.5, 0.5, 24)[:, None]
        bow = rng.normal(0, 0.05) * (1 - 4 * t**2) + 0.004 * np.cumsum(rng.normal(0, 1, (24, 1)), axis=0)
        length = defect.size * side * (1.0 if index == 0 else rng.uniform(0.4, 0.9))
        offset = 0.0 if index == 0 else rng.uniform(-0.10, 0.10) * side
        paths.append(middle + normal * (offset + bow * side) + heading * t * length)
        thicknesses.append(float(rng.uniform(1.0, 2.2) if index == 0 else 1.0))
    core = _lines(image, paths, thicknesses)
    # A burr on one flank of the groove catches the light the other way.
    flank = _lines(image, [path + normal * (0.5 + thicknesses[0]) for path in paths], [1.0] * len(paths))
    height, width = image.shape[:2]
    fade = 0.85 + 0.25 * smooth(rng, height, width, side / 6, side / 6)
    core = as_float(core * np.clip(fade, 0.45, 1))
    deep, shine = (0.22, 0.25) if defect.tone == "dark" else (0.95, -0.18)
    strength = np.float32(0.45 + 0.5 * defect.severity)
    target = image * np.float32(0.2) + np.float32(0.8 * deep)
    painted = image + as_float(core)[..., None] * strength * (target - image)
    painted = painted + as_float(np.clip(flank - core, 0, 1))[..., None] * np.float32(shine * defect.severity)
    return as_float(np.maximum(core, 0.6 * flank) > 0.22).astype(np.float32), as_float(painted)


def _crack(image: FloatArray, defect: Defect, rng: np.random.Generator) -> Layer:
    side = _short_side(image)
    paths: list[npt.NDArray[np.float64]] = []
    thicknesses: list[float] = []

    def grow(start: npt.NDArray[np.float64], angle: float, length: float, thickness: float, depth: int) -> None:
        steps = max(4, int(length / max(2.0, side / 36)))
        turns = rng.normal(0, 0.42, steps)
        drift = angle + 0.35 * np.cumsum(rng.normal(0, 0.28, steps))
        headings = drift + turns
        moves = np.stack([np.cos(headings), np.sin(headings)], axis=1) * (length / steps)
        path = np.concatenate([start[None], start + np.cumsum(moves, axis=0)])
        # A crack closes towards its end.
        half = len(path) // 2
        paths.extend([path[: half + 1], path[half:]])
        thicknesses.extend([thickness, max(1.0, thickness * 0.6)])
        if depth > 0:
            for _ in range(int(rng.integers(1, 3))):
                branch = int(rng.integers(1, len(path) - 1))
                fork = float(rng.choice([-1, 1]) * rng.uniform(0.4, 1.0))
                grow(
                    path[branch],
                    float(drift[branch - 1]) + fork,
                    length * rng.uniform(0.25, 0.5),
                    1.0,
                    depth - 1,
                )

    thickness = float(rng.uniform(1.3, 2.6))
    length = defect.size * side
    heading = np.array([np.cos(defect.direction), np.sin(defect.direction)])
    grow(_middle(image, defect) - heading * length / 2, defect.direction, length, thickness, 1)
    cover = _lines(image, paths, thicknesses)
    target = image * np.float32(0.18)
    edge = as_float(np.clip(emboss(as_float(cv2.GaussianBlur(cover, (3, 3), 0.8)), 0.8), 0, 1))
    strength = np.float32(0.5 + 0.5 * defect.severity)
    painted = image + strength * (target - image) + np.float32(0.25) * edge[..., None] * image
    return cover, as_float(painted)


def _hole(image: FloatArray, defect: Defect, rng: np.random.Generator) -> Layer:
    radius = max(1.5, defect.size * _short_side(image) / 2)
    field = _blob(image, defect, rng, radius, 0.14, float(rng.uniform(1.0, 1.5)))
    light = rng.uniform(0, 2 * np.pi)
    depth = as_float(np.clip(field * 2.2, 0, 1))
    inside = as_float(np.clip(field * radius + 0.5, 0, 1))
    rim = as_float(np.exp(-0.5 * ((field * radius + 0.8) / 1.1) ** 2))
    shading = emboss(as_float(cv2.GaussianBlur(depth, (0, 0), 1.2)), light) * np.float32(radius * 0.25)
    dark = image * np.float32(0.30 - 0.22 * defect.severity) * (1 - np.float32(0.5) * depth[..., None])
    painted = image + inside[..., None] * (dark - image)
    painted = painted + (0.35 * rim * np.clip(shading, -0.6, 1.0))[..., None]
    return as_float(np.maximum(inside, rim)), as_float(painted)


def _pit(image: FloatArray, defect: Defect, rng: np.random.Generator) -> Layer:
    height, width = image.shape[:2]
    side = _short_side(image)
    y, x = coordinates(height, width)
    middle = _middle(image, defect)
    inside = np.zeros((height, width), dtype=np.float32)
    light = float(rng.uniform(0, 2 * np.pi))
    for index in range(int(rng.integers(1, 8))):
        radius = max(1.2, defect.size * side / 2 * (1.0 if index == 0 else rng.uniform(0.4, 0.9)))
        offset = np.zeros(2) if index == 0 else rng.normal(0, 0.10 * side, 2)
        distance = np.hypot(x - np.float32(middle[0] + offset[0]), y - np.float32(middle[1] + offset[1]))
        inside = np.maximum(inside, as_float(np.clip(radius + 0.5 - distance, 0, radius) / radius))
    bowl = np.sqrt(inside)
    shading = emboss(as_float(cv2.GaussianBlur(bowl, (3, 3), 0.8)), light)
    strength = np.float32(0.45 + 0.4 * defect.severity)
    painted = image * (1 - strength * bowl[..., None]) + np.float32(0.5) * np.clip(shading, -0.5, 1)[..., None]
    spread = as_float(cv2.dilate(inside, np.ones((3, 3), np.uint8)))
    return as_float(np.clip(np.maximum(3 * inside, spread), 0, 1)), as_float(painted)


def _stain(image: FloatArray, defect: Defect, rng: np.random.Generator) -> Layer:
    radius = max(2.0, defect.size * _short_side(image) / 2)
    field = _blob(image, defect, rng, radius, 0.30, float(rng.uniform(1.0, 1.6)))
    body = as_float(np.clip(field * rng.uniform(2.5, 7), 0, 1))
    # Liquids dry darker at the edge.
    ring = as_float(np.exp(-0.5 * ((field - 0.12) / 0.10) ** 2)) * np.float32(rng.choice([0.0, 0.35]))
    uneven = 1 + 0.18 * cloud(rng, image.shape[0], image.shape[1], max(radius / 2, 2), 3)
    opacity = (0.30 + 0.38 * defect.severity) * np.clip(body * uneven + ring * body, 0, 1.3)
    color = np.float32(STAIN_COLORS[defect.tone])
    painted = image + as_float(np.clip(opacity, 0, 0.92))[..., None] * (color - image)
    return as_float(body > 0.15).astype(np.float32), as_float(painted)


def _dent(image: FloatArray, defect: Defect, rng: np.random.Generator) -> Layer:
    radius = max(2.0, defect.size * _short_side(image) / 2)
    field = np.clip(_blob(image, defect, rng, radius, 0.06, float(rng.uniform(1.0, 1.7))), 0, 1)
    bowl = as_float(field * field * (3 - 2 * field))
    shading = emboss(bowl, rng.uniform(0, 2 * np.pi)) * np.float32(radius)
    painted = image * (1 + np.float32(0.28 * defect.severity) * shading[..., None] - 0.12 * bowl[..., None])
    return as_float(np.clip(6 * field, 0, 1)), as_float(painted)


def _chip(image: FloatArray, defect: Defect, rng: np.random.Generator) -> Layer:
    height, width = image.shape[:2]
    radius = max(2.0, defect.size * _short_side(image) / 2)
    middle = _middle(image, defect)
    corners = int(rng.integers(6, 10))
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners)) * 0.4 + 0.6 * np.linspace(0, 2 * np.pi, corners, False)
    reach = radius * rng.uniform(0.55, 1.15, corners)
    outline = middle + np.stack([np.cos(angles), np.sin(angles)], axis=1) * reach[:, None]
    ridge = middle + rng.uniform(-0.3, 0.3, 2) * radius
    canvas = np.zeros((height * _FINER, width * _FINER, 2), dtype=np.uint8)
    light = rng.uniform(0, 2 * np.pi)
    for index in range(corners):
        # Fracture facets run from the ridge to each edge; a facet's brightness follows its slope to the light.
        facet = np.stack([ridge, outline[index], outline[(index + 1) % corners]])
        slope = 0.5 + 0.35 * np.cos(angles[index] - light) + rng.uniform(-0.12, 0.12)
        points = np.round(facet * _FINER * 2**_SHIFT).astype(np.int32).reshape(-1, 1, 2)
        level = int(np.clip(slope, 0, 1) * 255)
        cv2.fillPoly(canvas, [points], (255, level, 0), cv2.LINE_8, _SHIFT)
    small = as_float(cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)) / np.float32(255)
    cover = small[..., 0]
    facets = small[..., 1] / np.maximum(cover, 0.05)
    rough = 0.10 * cloud(rng, height, width, max(2.5, radius / 4), 3)
    color = image.mean(axis=(0, 1), keepdims=True)
    # Beneath a coat or a glaze lies what has less colour, or none.
    color = (color + color.mean()) / 2
    base = color * np.float32(0.42) if defect.tone == "dark" else color * np.float32(0.5) + np.float32(0.46)
    fracture = base * (0.5 + facets + rough)[..., None]
    painted = image + np.float32(0.55 + 0.45 * defect.severity) * (fracture - image)
    return cover, as_float(painted)


_DRAW: dict[str, Callable[[FloatArray, Defect, np.random.Generator], Layer]] = {
    "scratch": _scratch,
    "crack": _crack,
    "hole": _hole,
    "pit": _pit,
    "stain": _stain,
    "dent": _dent,
    "chip": _chip,
}
