"""Where the product is."""

from __future__ import annotations

from enum import StrEnum

import cv2
import numpy as np


class Foreground(StrEnum):
    """texture: the product fills the image. object: it lies before a background of another brightness."""

    TEXTURE = "texture"
    OBJECT = "object"


class ThresholdRule(StrEnum):
    """otsu: for two groups of grey levels (Otsu, 1979). triangle: for one group with a long tail, such as a small
    product before a large, even background (Zack et al., 1977)."""

    OTSU = "otsu"
    TRIANGLE = "triangle"


_FLAGS = {ThresholdRule.OTSU: cv2.THRESH_OTSU, ThresholdRule.TRIANGLE: cv2.THRESH_TRIANGLE}


def foreground_mask(image: np.ndarray, rule: ThresholdRule = ThresholdRule.OTSU) -> np.ndarray:
    """Pixels of an object before a background.

    image: uint8, height x width or height x width x 3 RGB. Returns uint8 of height x width, 0 or 255.
    Splits grey levels by the rule, takes the side that owns less of the image's border (backgrounds touch the border,
    products rarely do), closes holes and opens specks with a kernel of 1/32 of the shorter side.
    """
    height, width = image.shape[:2]
    grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    grey = cv2.GaussianBlur(grey, (5, 5), 0)
    _, bright = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY + _FLAGS[rule])
    border = np.concatenate([bright[0], bright[-1], bright[1:-1, 0], bright[1:-1, -1]])
    product = bright if np.count_nonzero(border) * 2 <= border.size else cv2.bitwise_not(bright)
    size = max(3, min(height, width) // 32) | 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    product = cv2.morphologyEx(product, cv2.MORPH_CLOSE, kernel)
    return cv2.morphologyEx(product, cv2.MORPH_OPEN, kernel)
