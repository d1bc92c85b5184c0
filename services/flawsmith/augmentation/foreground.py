"""Where the product is: defects are drawn there only."""

from __future__ import annotations

from enum import StrEnum

import cv2
import numpy as np


class Foreground(StrEnum):
    """texture: the product fills the image. object: it lies before a background of another brightness."""

    TEXTURE = "texture"
    OBJECT = "object"


def foreground_mask(image: np.ndarray, kind: Foreground) -> np.ndarray:
    """Pixels of the product.

    image: uint8, height x width x 3 RGB. Returns bool of height x width.
    `object` splits by Otsu's threshold, closes holes and opens specks with a kernel of 1/32 of the shorter side,
    and takes the side that owns less of the image's border: backgrounds touch the border, products rarely do.
    """
    height, width = image.shape[:2]
    if kind == Foreground.TEXTURE:
        return np.ones((height, width), dtype=bool)
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (5, 5), 0)
    _, bright = cv2.threshold(grey, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    border = np.concatenate([bright[0], bright[-1], bright[1:-1, 0], bright[1:-1, -1]])
    product = bright if border.mean() <= 0.5 else 1 - bright
    size = max(3, min(height, width) // 32) | 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    product = cv2.morphologyEx(product, cv2.MORPH_CLOSE, kernel)
    return cv2.morphologyEx(product, cv2.MORPH_OPEN, kernel).astype(bool)
