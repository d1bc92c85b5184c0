"""Synthetic images that copy a training image: an adapter tuned on five pictures may give them back.

How alike two pictures are is the best normalised cross-correlation of what a band-pass leaves of them, over shifts and
flips: exposure and contrast do not count, nor does a decoder's softness. How alike pictures of this product are anyhow
is measured on real ones that the adapter never saw; whatever is more alike than nearly all of those is called a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from flawsmith.common.manifests import CopyThresholds

SIDE = 256
"""Longer side at which pictures are compared, pixels."""
WINDOW = 48
"""Side of the part that is compared where only a part was painted, in pixels of the compared pictures."""
QUANTILE = 0.99
"""Share of real pictures never seen in training that stay under the threshold."""
MIN_WHOLE, MIN_WINDOW = 0.5, 0.75
"""Thresholds at least. Less than 0.5 explains less than a quarter of a picture's variance: no copy, however little this
product's pictures share. Windows are found anywhere and hold less: around cracks of different commutators, which are
single lines, they reach 0.65; copies, a decoder's round trip or a turn by a degree later, 0.9."""
MIN_HELD_OUT, MAX_HELD_OUT = 20, 64
"""Fewer cannot tell what one picture in a hundred reaches; more only take time."""
_FINE, _COARSE = 2.0, 8.0
_MARGIN = 8
# Grey levels. Below there is rounding, which OpenCV finds to correlate with anything.
_MIN_DETAIL = 0.1
_FLIPS = (None, 0, 1, -1)


@dataclass(frozen=True)
class Nearest:
    """The training image most alike: its position, and the similarity in [-1, 1]."""

    index: int
    similarity: float


class TrainingImages:
    """The images that an adapter was tuned on, ready to compare with."""

    def __init__(self, images: Sequence[np.ndarray]) -> None:
        """images: uint8, height x width x 3 RGB, at least one, of any sizes."""
        self._bands = [_band(image) for image in images]

    def nearest(self, image: np.ndarray, mask: np.ndarray | None = None) -> Nearest:
        """The training image that a picture resembles most; about 10 ms for each.

        image: uint8, height x width x 3 RGB. mask: where only a part was painted, uint8, height x width, not empty: a
        window around its middle is looked for anywhere in the training images, and the rest of the picture ignored.
        """
        band = _band(image)
        part = _middle(band) if mask is None else _window(band, mask)
        found = [_similarity(part, _fitted(other, band.shape, part.shape, mask is not None)) for other in self._bands]
        best = int(np.argmax(found))
        return Nearest(best, found[best])


def calibrate(training: TrainingImages, held_out: Sequence[np.ndarray], *, seed: int = 0) -> CopyThresholds | None:
    """Thresholds that QUANTILE of real pictures which are no training images stay under.

    held_out: real pictures of the product, uint8, height x width x 3. None where there are fewer than MIN_HELD_OUT.
    """
    if len(held_out) < MIN_HELD_OUT:
        return None
    rng = np.random.default_rng(seed)
    whole, window = [], []
    for image in held_out:
        somewhere = np.zeros(image.shape[:2], dtype=np.uint8)
        somewhere[rng.integers(image.shape[0]), rng.integers(image.shape[1])] = 255
        whole.append(training.nearest(image).similarity)
        window.append(training.nearest(image, somewhere).similarity)
    return CopyThresholds(
        whole=max(MIN_WHOLE, float(np.quantile(whole, QUANTILE))),
        window=max(MIN_WINDOW, float(np.quantile(window, QUANTILE))),
        held_out=len(held_out),
    )


def is_copy(nearest: Nearest, thresholds: CopyThresholds, *, masked: bool) -> bool:
    """Whether a picture, or the masked part of one, is more alike to a training image than real ones are."""
    return nearest.similarity > (thresholds.window if masked else thresholds.whole)


def _band(image: np.ndarray) -> np.ndarray:
    """Detail between the two scales, float32; what stands out is cut off, or edges that all parts share decide."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    scale = SIDE / max(grey.shape)
    if scale < 1:
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    values = grey.astype(np.float32)
    band = cv2.GaussianBlur(values, (0, 0), _FINE) - cv2.GaussianBlur(values, (0, 0), _COARSE)
    limit = 4 * float(np.median(np.abs(band))) + 1e-3
    return np.clip(band, -limit, limit)


def _middle(band: np.ndarray) -> np.ndarray:
    """All but a margin, within which the other picture may be shifted."""
    margin = min(_MARGIN, min(band.shape) // 8)
    return band[margin : band.shape[0] - margin, margin : band.shape[1] - margin]


def _window(band: np.ndarray, mask: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(mask)
    side = min(WINDOW, *band.shape)
    corner = []
    for places, length, size in ((rows, mask.shape[0], band.shape[0]), (columns, mask.shape[1], band.shape[1])):
        middle = (int(places.min()) + int(places.max()) + 1) / 2 * size / length
        corner.append(int(np.clip(middle - side / 2, 0, size - side)))
    return band[corner[0] : corner[0] + side, corner[1] : corner[1] + side]


def _fitted(other: np.ndarray, shape: tuple[int, ...], part: tuple[int, ...], masked: bool) -> np.ndarray:
    """A training image at the picture's size; a window is looked for at the scale at which it was painted."""
    if masked and other.shape[0] >= part[0] and other.shape[1] >= part[1]:
        return other
    return other if other.shape == shape else cv2.resize(other, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)


def _similarity(part: np.ndarray, other: np.ndarray) -> float:
    if float(part.std()) < _MIN_DETAIL:
        return 0.0
    best = -1.0
    for flip in _FLIPS:
        turned = other if flip is None else cv2.flip(other, flip)
        correlation = cv2.matchTemplate(turned, part, cv2.TM_CCOEFF_NORMED)
        best = max(best, float(correlation.max()))
    return best
