"""Where a defect goes, and how it gets there without touching any other pixel (DSAII).

Masks are uint8, height x width, 255 inside and 0 outside.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np

from flawsmith.common.errors import FailedPreconditionError, InvalidArgumentError
from flawsmith.drawing import DEFECTS, Defect, direction_word, draw_defect, random_defect
from flawsmith.generation.spec import MIN_SIDE

MAX_TRIES = 1000
MAX_ZOOM = 4
"""Small defects are enlarged for the model up to this much; beyond, it sees a blur and no surface."""
_TRIES_A_MASK = 10
_SCALES = (0.1, 2.0)
_SHEAR_DEGREES = 10.0
_TRANSLATE = {"object": 0.5, "texture": 0.1}
DSAII_AREAS = {"object": (0.01, 0.05), "texture": (0.05, 0.10)}
"""Share of the image that a defect covers, where the product's own masks do not show it."""
FINE_AREAS = dict.fromkeys(("scratch", "crack", "pit"), (0.003, 0.04))
"""The same for kinds of drawn masks that are lines or points, on objects and textures alike. Deviates from DSAII, whose
ranges are not what such defects look like (the cracks of KolektorSDD cover 0.1-1.5 %): drawn ones cover about 1 % of
their image, and may be half to twice as long."""
_LEAST_LINES, _LINE, LEAST_TURN = 3, 3.0, 10.0
"""See `angle_range`; LEAST_TURN is in degrees."""
_ANOTHER_PIECE = 8
"""Pixels: beyond what grain hangs together over."""
_DRAWN_SIDE = 256
_DRAWN_PER_KIND = 8


@dataclass(frozen=True)
class BankMask:
    """A mask to place. defect_type: its kind. origin: sha256 of the real image that it comes from; empty when drawn."""

    mask: np.ndarray
    defect_type: str = ""
    origin: str = ""

    @property
    def area(self) -> float:
        """Share of its image that it covers."""
        return float(np.count_nonzero(self.mask)) / self.mask.size


@dataclass(frozen=True)
class Transform:
    """How a mask was placed. angle, shear: degrees. translate: (down, right) as parts of height and width. scale:
    factor. flip_horizontal, flip_vertical: before all else. tries: how many were needed."""

    angle: float
    shear: float
    translate: tuple[float, float]
    scale: float
    flip_horizontal: bool
    flip_vertical: bool
    tries: int

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Placed:
    """A placed mask. source: the mask that it was made from."""

    mask: np.ndarray
    source: BankMask
    transform: Transform


@dataclass(frozen=True)
class Crop:
    """A part of an image, pixels; `height` and `width` are its own."""

    top: int
    left: int
    height: int
    width: int

    def of(self, image: np.ndarray) -> np.ndarray:
        """The part of an image or a mask, a view."""
        return image[self.top : self.top + self.height, self.left : self.left + self.width]


def drawn_masks(seed: int, kinds: Sequence[str] = (), direction: str = "") -> list[BankMask]:
    """Masks that `flawsmith.drawing` draws, some of each kind of defect. kinds: of `flawsmith.drawing.DEFECTS`; all
    when empty. direction: of scratches and cracks, a word of `direction_word`; any when empty.

    Raises InvalidArgumentError (UNKNOWN_DEFECT_TYPE).
    """
    known = [kind for kind in DEFECTS if kind != "none"]
    unknown = sorted(set(kinds) - set(known))
    if unknown:
        raise InvalidArgumentError(
            "UNKNOWN_DEFECT_TYPE",
            f"nobody can draw masks of {', '.join(unknown)}; known are {', '.join(known)}",
        )
    rng = np.random.default_rng([seed, 17])
    blank = np.full((_DRAWN_SIDE, _DRAWN_SIDE, 3), 0.5, np.float32)
    return [
        BankMask(np.where(draw_defect(blank, _defect(rng, kind, direction), rng)[1], np.uint8(255), np.uint8(0)), kind)
        for kind in (list(kinds) or known)
        for _ in range(_DRAWN_PER_KIND)
    ]


def _defect(rng: np.random.Generator, kind: str, direction: str) -> Defect:
    while True:
        defect = random_defect(rng, kind)
        if direction_word(defect) in ("", direction) or not direction:
            return defect


def check_mask(mask: np.ndarray, name: str) -> None:
    """Raise InvalidArgumentError: EMPTY_MASK, FULL_MASK. name: of the mask, for people."""
    if not mask.any():
        raise InvalidArgumentError("EMPTY_MASK", f"the mask of {name} covers nothing; mend it or leave it out")
    if mask.all():
        raise InvalidArgumentError(
            "FULL_MASK",
            f"the mask of {name} covers the whole image, so nothing of a good image would be left; mend it, or draw "
            "whole images with text_to_image",
        )


def area_range(bank: Sequence[BankMask], foreground: str) -> tuple[float, float]:
    """Share of the image that defects cover: from the 5th to the 95th percentile of the product's own masks, but at
    least a factor of two wide; DSAII's where there are none of its own.

    foreground: `object` or `texture`.
    """
    own = [entry.area for entry in bank if entry.origin]
    if not own:
        return DSAII_AREAS[foreground]
    low, high = (float(np.percentile(own, share)) for share in (5, 95))
    # Masks of one size would leave no room for any affine transform.
    widen = max(1.0, math.sqrt(2 * low / high))
    return low / widen, min(high * widen, 0.95)


def angle_range(bank: Sequence[BankMask]) -> float:
    """How far a mask may be turned to either side, degrees, to lie as the product's own masks do: the largest angle
    between the long axes of any two lines among them, but at least `LEAST_TURN`.

    180, as DSAII turns masks, where they show no direction: fewer than `_LEAST_LINES` of the product's own are lines,
    `_LINE` times as long as wide, or fewer than half. Lengths are deviations along the principal axes of a mask's
    pixels.
    """
    axes = [_long_axis(entry.mask) for entry in bank if entry.origin]
    directions = np.array([axis for axis in axes if axis is not None])
    if len(directions) < max(_LEAST_LINES, len(axes) / 2):
        return 180.0
    between = np.abs(directions[:, None] - directions)
    return max(float(np.minimum(between, 180 - between).max()), LEAST_TURN)


def _long_axis(mask: np.ndarray) -> float | None:
    """Direction of a line, degrees from 0 to 180; None of what is no line."""
    rows, columns = np.nonzero(mask)
    if len(rows) < 2:
        return None
    variances, axes = np.linalg.eigh(np.cov(np.stack([columns, rows])))
    if variances[1] < _LINE**2 * variances[0]:
        return None
    return math.degrees(math.atan2(axes[1, 1], axes[0, 1])) % 180


def object_region(foreground: np.ndarray) -> np.ndarray:
    """The largest connected region of a foreground mask; all 0 where there is none."""
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(foreground, connectivity=8)
    if count < 2:
        return np.zeros_like(foreground)
    largest = 1 + int(np.argmax(statistics[1:, cv2.CC_STAT_AREA]))
    return np.where(labels == largest, np.uint8(255), np.uint8(0))


def place(
    bank: Sequence[BankMask],
    region: np.ndarray,
    foreground: str,
    areas: Mapping[str, tuple[float, float]],
    rng: np.random.Generator,
    angles: Mapping[str, float] = MappingProxyType({}),
) -> Placed:
    """Put a random mask of the bank onto a region by a random affine transform and flips (DSAII).

    region: mask of the object, or of the whole image for a texture; what of the defect lies beside it is cut off.
    foreground: `object` (translations up to half of the image) or `texture` (a tenth). areas: for each defect type of
    the bank, the share of the image that may be covered, both ends included. angles: how far its masks are
    turned to either side, degrees; 180 where a type is not named. A mask has `_TRIES_A_MASK` tries before
    another has its turn, so that those which fit often crowd out the rest less.
    Raises FailedPreconditionError (NO_PLACE) after `MAX_TRIES`.
    """
    height, width = region.shape
    for tries in range(1, MAX_TRIES + 1):
        if tries % _TRIES_A_MASK == 1:
            source = bank[int(rng.integers(len(bank)))]
            low, high = (share * region.size for share in areas[source.defect_type])
        transform = _random_transform(foreground, angles.get(source.defect_type, 180.0), tries, rng)
        mask = _warp(source.mask, height, width, transform) & region
        if low <= np.count_nonzero(mask) <= high and not mask.all():
            return Placed(mask, source, transform)
    ranges = sorted({areas[mask.defect_type] for mask in bank})
    covers = " or ".join(f"{low:.3%} to {high:.3%}" for low, high in ranges)
    raise FailedPreconditionError(
        "NO_PLACE",
        f"no mask of {len(bank)} could be placed on the {foreground} so that it covers {covers} of the image of "
        f"{height} x {width} pixels, in {MAX_TRIES} tries; widen min_area and max_area, or use other masks",
    )


def _random_transform(foreground: str, max_angle: float, tries: int, rng: np.random.Generator) -> Transform:
    reach = _TRANSLATE[foreground]
    return Transform(
        angle=float(rng.uniform(-max_angle, max_angle)) % 360,
        shear=float(rng.uniform(-_SHEAR_DEGREES, _SHEAR_DEGREES)),
        translate=(float(rng.uniform(-reach, reach)), float(rng.uniform(-reach, reach))),
        scale=float(rng.uniform(*_SCALES)),
        flip_horizontal=bool(rng.integers(2)),
        flip_vertical=bool(rng.integers(2)),
        tries=tries,
    )


def _warp(mask: np.ndarray, height: int, width: int, transform: Transform) -> np.ndarray:
    """A mask transformed about the image's centre, on a canvas of height x width."""
    # To the canvas without changing its form: a square mask stays square on a strip.
    factor = math.sqrt(height * width / mask.size)
    flips = np.diag([-1.0 if transform.flip_horizontal else 1.0, -1.0 if transform.flip_vertical else 1.0])
    angle, shear = math.radians(transform.angle), math.radians(transform.shear)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    linear = transform.scale * factor * turn @ np.array([[1.0, math.tan(shear)], [0.0, 1.0]]) @ flips
    centre = np.array([(mask.shape[1] - 1) / 2, (mask.shape[0] - 1) / 2])
    target = np.array(
        [(width - 1) / 2 + transform.translate[1] * width, (height - 1) / 2 + transform.translate[0] * height]
    )
    matrix = np.column_stack([linear, target - linear @ centre])
    return cv2.warpAffine(mask, matrix, (width, height), flags=cv2.INTER_NEAREST)


def crop_around(mask: np.ndarray, padding: int, native_side: int) -> Crop:
    """The square around a mask that the model draws, `native_side` pixels when it has drawn it.

    padding: pixels beside the mask's bounding box, at least. Never smaller than `native_side / MAX_ZOOM`; within the
    image, so that it is no square where the image is narrower.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    spans = (int(rows[0]), int(rows[-1]) + 1), (int(columns[0]), int(columns[-1]) + 1)
    side = max(-(-native_side // MAX_ZOOM), *(end - start + 2 * padding for start, end in spans))
    (top, height), (left, width) = (
        _within((start + end) // 2, side, total) for (start, end), total in zip(spans, mask.shape, strict=True)
    )
    return Crop(top, left, height, width)


def _within(middle: int, side: int, total: int) -> tuple[int, int]:
    """Start and length of a stretch of `side` about a middle, moved or cut to lie within 0 to total."""
    length = min(side, total)
    return min(max(middle - length // 2, 0), total - length), length


def drawn_size(crop: Crop, native_side: int, multiple: int) -> tuple[int, int]:
    """Height and width at which the model draws a crop: the longer side at its native size, multiples of its own."""
    scale = native_side / max(crop.height, crop.width)
    least = -(-MIN_SIDE // multiple) * multiple
    height, width = (max(least, round(side * scale / multiple) * multiple) for side in (crop.height, crop.width))
    return height, width


def widened(mask: np.ndarray, multiple: int) -> np.ndarray:
    """A mask as the model is shown it: a little more than is pasted, so that thin defects are not lost between latents.

    multiple: pixels a latent.
    """
    reach = multiple + 1
    return cv2.dilate(mask, np.ones((reach, reach), np.uint8))


def paste(parent: np.ndarray, drawn: np.ndarray, mask: np.ndarray, crop: Crop, feather: int) -> np.ndarray:
    """The parent with what was drawn inside the mask, uint8, height x width x 3.

    drawn: uint8, any size x 3; it is scaled to the crop, in which all of the mask lies. feather: pixels over which the
    drawn part fades in from the mask's edge inward, less in masks that are narrower. Pixels outside the mask are the
    parent's, bit for bit.
    """
    smaller = drawn.shape[0] > crop.height or drawn.shape[1] > crop.width
    scaled = cv2.resize(drawn, (crop.width, crop.height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
    inside = crop.of(mask) > 0
    weight = _fade_in(crop.of(mask), feather)[..., None]
    original = crop.of(parent)
    difference = scaled.astype(np.float32) - original
    if not inside.all():
        # The model's colours drift; how far shows where it should have changed nothing.
        difference -= np.median(difference[~inside], axis=0)
    blended = np.clip(np.rint(original + weight * difference), 0, 255).astype(np.uint8)
    pasted = parent.copy()
    crop.of(pasted)[inside] = blended[inside]
    return pasted


def _fade_in(mask: np.ndarray, feather: int) -> np.ndarray:
    """Weights in [0, 1], float32: 0 outside the mask, above 0 inside, 1 at `feather` pixels from its edge."""
    distance = cv2.distanceTransform(mask, cv2.DIST_L2, 5)
    # A scratch is narrower than any feather: it must not fade away altogether.
    reach = min(float(feather), float(distance.max()) - 1.0)
    return np.clip(distance / (reach + 1.0), 0.0, 1.0).astype(np.float32)


def change(parent: np.ndarray, painted: np.ndarray, mask: np.ndarray) -> float:
    """How much more a painted image differs from its parent inside the mask than another piece of the same surface
    would: mean absolute differences, grey levels, of images smoothed over a pixel; 0 at least.

    Another piece is the parent moved by `_ANOTHER_PIECE` pixels, in that of eight directions which changes least: along
    an edge, where there is one. So a defect that coarse grain hides does not count.
    """
    before, after = (cv2.GaussianBlur(image, (0, 0), 1.0).astype(np.float32) for image in (parent, painted))
    inside, far = mask > 0, _ANOTHER_PIECE
    framed = cv2.copyMakeBorder(before, far, far, far, far, cv2.BORDER_REFLECT_101)
    height, width = mask.shape
    moved = [
        framed[far + down : far + down + height, far + right : far + right + width]
        for down in (-far, 0, far)
        for right in (-far, 0, far)
        if down or right
    ]
    grain = min(float(np.abs(before - piece)[inside].mean()) for piece in moved)
    return max(float(np.abs(before - after)[inside].mean()) - grain, 0.0)
