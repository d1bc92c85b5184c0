"""Near-duplicate images: the same picture after re-encoding, another exposure, a small shift or a flip.

Pictures of a uniform product resemble each other in everything but their grain, so overall likeness says nothing.
Compared is what a band-pass leaves, tile by tile: structure that every part shares (edges, holes) fills few tiles,
while a copy agrees in nearly all of them. And since prints or weaves may agree everywhere, a pair must besides
agree far better than pairs of this product usually do.

Two stages. A signature finds a few candidates an image by matrix products over all pairs; each candidate pair is
then aligned to a fraction of a pixel and compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

THUMBNAIL_SIDE = 160
"""Longer side at which candidates are compared, pixels."""
SIGNATURE_SIDE = 32
"""Rows and columns of a signature, whatever the image's shape."""
CANDIDATES = 4
"""Partners an image that are compared closely."""
QUANTILE = 0.3
"""A pair's agreement is the correlation that all but this share of its tiles reach. Not the median: along a brushed
surface few tiles are independent of each other, and half of them may agree by chance."""
MIN_AGREEMENT, MIN_AGREEMENT_SMALL = 0.85, 0.92
"""From here a pair may be a copy; the second where an image has fewer than 32 tiles, which agree by chance more
easily. Measured on commutators, leather and drawn plates: pairs of different shots reach 0.64 from 96 x 64 pixels on
and 0.84 at 48 x 48; copies (JPEG quality 70, noise, exposure, flips, shifts of 2 pixels) 0.94 and 0.92."""
MAX_RELATIVE_DISAGREEMENT = 0.5
"""Share of this product's usual disagreement (1 - agreement) that a copy may show at most."""
_REFERENCE_PAIRS = 64
_MIN_PAIRS_FOR_REFERENCE = 100
_TILE = 16
_MAX_SHIFT = 4.0
_FLIPS: tuple[tuple[int, int], ...] = ((1, 1), (-1, 1), (1, -1), (-1, -1))


@dataclass(frozen=True)
class Fingerprint:
    """What is kept of an image: at most 27 KB.

    signature: float32 of 32 x 32, unit length. thumbnail: uint8 grey, longer side 160 pixels or less.
    """

    signature: np.ndarray
    thumbnail: np.ndarray


@dataclass(frozen=True)
class Pair:
    """Positions of a near-duplicate pair and its agreement, at most 1."""

    first: int
    second: int
    agreement: float


def fingerprint(image: np.ndarray) -> Fingerprint:
    """image: uint8, height x width x 3 RGB."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    scale = THUMBNAIL_SIDE / max(grey.shape)
    thumbnail = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else grey
    side = 2 * SIGNATURE_SIDE
    # A blur of 1.5 pixels keeps the signature of an image shifted by a pixel or two close to its own.
    band = _band(cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32), 1.5, 6.0)
    # Cut off what stands out: edges and holes that all parts share would outweigh the grain.
    band = np.clip(band / (np.median(np.abs(band)) + 1e-6), -1.5, 1.5)[::2, ::2]
    band = band - band.mean()
    return Fingerprint(band / (np.linalg.norm(band) + 1e-6), thumbnail)


def near_duplicates(first: Sequence[Fingerprint], second: Sequence[Fingerprint]) -> list[Pair]:
    """Pairs of one image of `first` and one of `second` that show the same picture, in order.

    Time: a product of len(first) x len(second) x 1024 x 4, then about 2 ms for each image of `first`.
    """
    if not first or not second:
        return []
    candidates = _candidates(first, second)
    usual = _usual_agreement(first, second)
    pairs = []
    for here, there, flip in candidates:
        agreement = _agreement(first[here].thumbnail, second[there].thumbnail, flip)
        if _is_copy(agreement, first[here], usual):
            pairs.append(Pair(here, there, agreement))
    return sorted(pairs, key=lambda pair: (pair.first, pair.second))


def near_duplicates_within(images: Sequence[Fingerprint]) -> list[Pair]:
    """Pairs within one sequence, first < second."""
    if len(images) < 2:
        return []
    usual = _usual_agreement(images, images)
    pairs = {}
    for here, there, flip in _candidates(images, images, exclude_same=True):
        key = (min(here, there), max(here, there))
        if key not in pairs:
            agreement = _agreement(images[here].thumbnail, images[there].thumbnail, flip)
            if _is_copy(agreement, images[here], usual):
                pairs[key] = Pair(*key, agreement)
    return [pairs[key] for key in sorted(pairs)]


def _candidates(
    first: Sequence[Fingerprint], second: Sequence[Fingerprint], *, exclude_same: bool = False
) -> list[tuple[int, int, tuple[int, int]]]:
    """The CANDIDATES best partners of each image of `first`, with the flip that fits."""
    others = np.stack([entry.signature for entry in second])
    flipped = np.stack([others[:, ::down, ::across] for down, across in _FLIPS]).reshape(len(_FLIPS) * len(second), -1)
    found = []
    for start in range(0, len(first), 256):
        block = np.stack([entry.signature.ravel() for entry in first[start : start + 256]])
        likeness = (block @ flipped.T).reshape(len(block), len(_FLIPS), len(second))
        best_flip = likeness.argmax(axis=1)
        best = likeness.max(axis=1)
        if exclude_same:
            rows = np.arange(len(block))
            best[rows, start + rows] = -np.inf
        count = min(CANDIDATES, len(second) - int(exclude_same))
        chosen = np.argpartition(-best, count - 1, axis=1)[:, :count]
        found += [
            (start + row, int(column), _FLIPS[int(best_flip[row, column])])
            for row in range(len(block))
            for column in sorted(chosen[row].tolist())
        ]
    return found


def _usual_agreement(first: Sequence[Fingerprint], second: Sequence[Fingerprint]) -> float:
    """Median agreement of pairs drawn at random (always the same ones); 0 where too few say what is usual."""
    if len(first) * len(second) < _MIN_PAIRS_FOR_REFERENCE:
        return 0.0
    rng = np.random.default_rng(0)
    values = [
        _agreement(first[here].thumbnail, second[there].thumbnail, (1, 1))
        for here, there in zip(
            rng.integers(len(first), size=_REFERENCE_PAIRS),
            rng.integers(len(second), size=_REFERENCE_PAIRS),
            strict=True,
        )
        if first[here] is not second[there]
    ]
    return max(0.0, float(np.median(values))) if values else 0.0


def _is_copy(agreement: float, image: Fingerprint, usual: float) -> bool:
    height, width = image.thumbnail.shape
    enough = MIN_AGREEMENT if (height // _TILE) * (width // _TILE) >= 32 else MIN_AGREEMENT_SMALL
    return agreement >= enough and 1 - agreement <= MAX_RELATIVE_DISAGREEMENT * (1 - usual)


def _agreement(here: np.ndarray, there: np.ndarray, flip: tuple[int, int]) -> float:
    """Correlation that most tiles of two thumbnails reach after alignment; 0 where there is no detail to compare."""
    height, width = here.shape
    other = there[:: flip[0], :: flip[1]]
    if abs(other.shape[0] / height - 1) > 0.1 or abs(other.shape[1] / width - 1) > 0.1:
        return 0.0
    other = other if other.shape == here.shape else cv2.resize(other, (width, height), interpolation=cv2.INTER_LINEAR)
    one = _band(here.astype(np.float32), 0.7, 4.0)
    two = _band(other.astype(np.float32), 0.7, 4.0)
    limit = 4 * float(np.median(np.abs(one))) + 1e-3
    window = cv2.createHanningWindow((width, height), cv2.CV_32F)
    (shift_x, shift_y), _ = cv2.phaseCorrelate(np.clip(one, -limit, limit), np.clip(two, -limit, limit), window)
    if abs(shift_x) <= _MAX_SHIFT and abs(shift_y) <= _MAX_SHIFT:
        matrix = np.array([[1, 0, shift_x], [0, 1, shift_y]], dtype=np.float32)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        two = cv2.warpAffine(two, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT)
        # The same interpolation loss on both sides: none here, so blur what it would have blurred.
        one = cv2.GaussianBlur(one, (3, 3), 0.5)
        two = cv2.GaussianBlur(two, (3, 3), 0.5)
    tile = min(_TILE, height, width)
    rows, columns = height // tile, width // tile
    area = (slice(rows * tile), slice(columns * tile))
    tiles_one, tiles_two = (
        part[area].reshape(rows, tile, columns, tile).swapaxes(1, 2).reshape(rows * columns, -1) for part in (one, two)
    )
    tiles_one = tiles_one - tiles_one.mean(axis=1, keepdims=True)
    tiles_two = tiles_two - tiles_two.mean(axis=1, keepdims=True)
    length_one, length_two = np.linalg.norm(tiles_one, axis=1), np.linalg.norm(tiles_two, axis=1)
    # Below a tenth of a grey level there is rounding, not detail.
    telling = (length_one > 0.1 * tile) & (length_two > 0.1 * tile)
    if telling.sum() < max(1, rows * columns // 4):
        return 0.0
    correlations = (tiles_one * tiles_two).sum(axis=1)[telling] / (length_one * length_two)[telling]
    return float(np.quantile(correlations, QUANTILE))


def _band(image: np.ndarray, fine: float, coarse: float) -> np.ndarray:
    """Difference of Gaussians: detail between the two scales, in pixels."""
    return cv2.GaussianBlur(image, (0, 0), fine) - cv2.GaussianBlur(image, (0, 0), coarse)
