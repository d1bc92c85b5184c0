"""Real defects are moved to other places on other surfaces while training, so that a few show more than themselves."""

from __future__ import annotations

import cv2
import numpy as np

_DEGREES = 20.0
_SCALES = (0.7, 1.3)
_OPACITIES = (0.25, 1.0)
_FEATHER = 1.0
"""Standard deviation, in pixels, of the blur of the pasted defect's edge."""
_SURROUNDINGS = 7
"""Pixels around the defect whose mean colour is matched."""


def paste_defect(
    image: np.ndarray, mask: np.ndarray, normal: np.ndarray, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Cut a defect out of its image and paste it into a normal, as instances are (Ghiasi et al. 2021, section 3).

    The defect is flipped, turned by up to 20 degrees, scaled by 0.7 to 1.3 and moved so that one of its pixels, drawn
    at random, comes to a random place. Its colour is shifted as a whole by the difference between the two surroundings'
    means, so that it is darker or brighter than the normal there as it was at home, and it is blended with a soft edge
    at an opacity of 0.25 to 1, which makes faint defects of clear ones.

    image, normal: uint8, H x W x 3. mask: uint8, H x W, above 0 on the defect, with at least one pixel. Returns the
    pasted image, uint8, H x W x 3, and its mask, uint8, H x W, 0 or 255.
    """
    height, width = mask.shape
    rows, columns = np.nonzero(mask)
    chosen = generator.integers(len(rows))
    row, column = float(rows[chosen]), float(columns[chosen])
    matrix = cv2.getRotationMatrix2D((column, row), generator.uniform(-_DEGREES, _DEGREES), generator.uniform(*_SCALES))
    matrix[:, :2] *= generator.choice([-1.0, 1.0], size=(2, 1))
    place = np.array([generator.integers(width), generator.integers(height)], dtype=np.float64)
    matrix[:, 2] = place - matrix[:, :2] @ (column, row)
    # Repeated at the edges, which defects often reach: the soft edge looks a little beyond the outline.
    moved = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    outline = (mask > 0).astype(np.uint8)
    defect = cv2.warpAffine(outline, matrix, (width, height), flags=cv2.INTER_NEAREST)
    here, there = _surroundings(outline), _surroundings(defect)
    shift = np.zeros(3)
    if here.any() and there.any():
        shift = np.subtract(cv2.mean(normal, there)[:3], cv2.mean(image, here)[:3])
    weight = cv2.GaussianBlur(cv2.dilate(defect.astype(np.float32), np.ones((3, 3))), (0, 0), _FEATHER)
    weight = generator.uniform(*_OPACITIES) * weight[..., None]
    blended = (1.0 - weight) * normal + weight * np.clip(moved + shift, 0.0, 255.0)
    return np.rint(blended).astype(np.uint8), defect * np.uint8(255)


def _surroundings(outline: np.ndarray) -> np.ndarray:
    """The pixels around a defect, without the one nearest to it: uint8, H x W, 0 or 1, as outline."""
    side = 2 * _SURROUNDINGS + 1
    return cv2.dilate(outline, np.ones((side, side), np.uint8)) - cv2.dilate(outline, np.ones((3, 3), np.uint8))
