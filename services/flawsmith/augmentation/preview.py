"""Where defects would fall, before any is made."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from flawsmith.augmentation.augment import augment
from flawsmith.augmentation.methods import MethodParameters
from flawsmith.augmentation.placement import allowed_area
from flawsmith.augmentation.planning import image_generator

MAX_PREVIEWS = 16
_SHADE = 0.35
_COLOURS = ((230, 60, 60), (60, 140, 240), (240, 180, 40), (150, 80, 220), (40, 190, 190), (240, 110, 190))


@dataclass(frozen=True)
class Preview:
    """allowed: uint8, height x width, 255 where defects may be. masks: those of the draws, 0 or 255.

    overlay: uint8 RGB; the image, dark where no defect may be, with the outline of each mask in a colour of its own.
    """

    allowed: np.ndarray
    overlay: np.ndarray
    masks: list[np.ndarray]


def preview_placement(
    image: np.ndarray, *, method: str, parameters: MethodParameters, seed: int, count: int
) -> Preview:
    """The placement's area and `count` draws: the same that a batch with this seed would begin with in this image.

    image: as `augment` takes it. count: 1 to 16. Raises what `augment` raises.
    """
    masks = [
        augment(image, image_generator(seed, index), method=method, parameters=parameters).mask
        for index in range(count)
    ]
    allowed = allowed_area(image, parameters)
    if allowed is None:
        allowed = np.full(image.shape[:2], 255, np.uint8)
    colour = image if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    overlay = np.where(allowed[:, :, None] > 0, colour, np.rint(colour * _SHADE).astype(np.uint8))
    width = max(1, round(min(image.shape[:2]) / 200))
    for index, mask in enumerate(masks):
        outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(overlay, outlines, -1, _COLOURS[index % len(_COLOURS)], width)
    return Preview(allowed, overlay, masks)
