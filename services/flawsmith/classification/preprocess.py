"""The one way from a decoded picture to the classifier's input: training, evaluation and Classify all use it."""

from __future__ import annotations

import cv2
import numpy as np


def preprocess(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Centre-crop to the target's aspect ratio, then resize (In&Out, "centre-crop and resize to 600 x 200").

    image: uint8, H x W x 3, RGB, 0-255, any size. Returns uint8, height x width x 3, C-contiguous. The crop keeps
    the whole of the side that is short relative to the target. Shrinking averages areas (a thin scratch keeps its
    share of the contrast, where point sampling may step over it); enlarging is bilinear.
    """
    return _crop_and_resize(image, height, width)


def preprocess_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """The same crop and resize for a mask: uint8, H x W, 0 or 255. Returns uint8, height x width, 0 or 255.

    A pixel that holds any part of the defect is marked, so that a scratch of one pixel survives shrinking.
    """
    return np.where(_crop_and_resize(mask, height, width) > 0, np.uint8(255), np.uint8(0))


def _crop_and_resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    rows, columns = image.shape[:2]
    if rows * width > columns * height:  # too tall for the target
        cropped_rows, cropped_columns = max(1, round(columns * height / width)), columns
    else:
        cropped_rows, cropped_columns = rows, max(1, round(rows * width / height))
    top, left = (rows - cropped_rows) // 2, (columns - cropped_columns) // 2
    crop = image[top : top + cropped_rows, left : left + cropped_columns]
    if crop.shape[:2] != (height, width):
        shrinks = cropped_rows >= height and cropped_columns >= width
        crop = cv2.resize(crop, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.ascontiguousarray(crop)
