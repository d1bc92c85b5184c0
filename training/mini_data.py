"""Pictures that the mini base model learns from: drawn on the spot, nothing is downloaded."""

import string
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from flawsmith.drawing import (
    COLORS,
    DEFECTS,
    SURFACES,
    Defect,
    Drawing,
    Surface,
    direction_word,
    draw,
    random_defect,
    random_surface,
)

ByteArray: TypeAlias = npt.NDArray[np.uint8]

# Thin and small defects are the hard ones: they are drawn more often.
_CHANCES = {
    "scratch": 0.2,
    "crack": 0.17,
    "hole": 0.1,
    "pit": 0.12,
    "stain": 0.12,
    "dent": 0.08,
    "chip": 0.08,
}
_WORDS = {
    "scratch": ["scratched", "scratches"],
    "crack": ["cracked", "broken, cracked, severely shattered"],
    "hole": ["hole", "holes", "broken"],
    "pit": ["pitted", "pits", "small pits"],
    "stain": ["stained", "stains"],
    "dent": ["dented", "dent"],
    "chip": ["chipped", "chip"],
}


def held_out(surface: Surface, defect: Defect | None) -> bool:
    """Whether the model never sees this combination of surface, colour, kind and direction: about one in seven.

    Each of a combination's parts occurs in others, so that drawing a held-out one takes understanding its words.
    """
    directions = ("", "horizontal", "vertical", "diagonal")
    kind = "none" if defect is None else defect.kind
    number = (
        SURFACES.index(surface.kind)
        + list(COLORS[surface.kind]).index(surface.color)
        + 3 * DEFECTS.index(kind)
        + 2 * directions.index(direction_word(defect))
    )
    return number % 7 == 0


def draw_random(rng: np.random.Generator, size: int, *, unseen: bool = False) -> Drawing:
    """A size x size picture of a combination that the model learns from, or of a held-out one when `unseen`; about one
    in eight has no defect."""
    chances = [_CHANCES.get(kind, 0.0) for kind in DEFECTS]
    chances[DEFECTS.index("none")] = 1 - sum(chances)
    while True:
        surface = random_surface(rng)
        kind = str(rng.choice(DEFECTS, p=chances))
        defect = None if kind == "none" else random_defect(rng, kind)
        if held_out(surface, defect) == unseen:
            return draw(rng, size, size, surface=surface, defect=defect or "none")


def training_caption(rng: np.random.Generator, drawing: Drawing) -> str:
    """The drawing's caption, sometimes in the bare style of personalised models.

    "background" may stand for any surface and an unknown identifier ("skt background cracked") may precede it, so
    that the model takes neither for a defect.
    """
    caption = drawing.caption
    if rng.random() < 0.25:
        place = "background" if rng.random() < 0.6 else f"{drawing.surface.kind} background"
        kind = None if drawing.defect is None else drawing.defect.kind
        caption = place if kind is None else f"{place} {rng.choice(_WORDS[kind])}"
    if rng.random() < 0.12:
        identifier = "".join(rng.choice(list(string.ascii_lowercase), int(rng.integers(3, 6))))
        caption = f"{identifier} {caption}"
    return caption


def inpaint_mask(rng: np.random.Generator, defect_mask: ByteArray) -> ByteArray:
    """A region to repaint, 0 or 1: around the defect where there is one, else anywhere.

    Users hand in anything from the defect's own outline to a generous box, so all of these occur.
    """
    height, width = defect_mask.shape
    rows, columns = np.nonzero(defect_mask)
    mask = np.zeros((height, width), dtype=np.uint8)
    if len(rows) and rng.random() < 0.5:
        reach = int(rng.integers(1, 6)) * 2 + 1
        return (cv2.dilate(defect_mask, np.ones((reach, reach), np.uint8)) > 0).astype(np.uint8)
    if len(rows):
        grow = rng.integers(2, 16, 4)
        top, bottom = max(0, rows.min() - grow[0]), rows.max() + grow[1]
        left, right = max(0, columns.min() - grow[2]), columns.max() + grow[3]
    else:
        top, left = int(rng.integers(0, height * 3 // 4)), int(rng.integers(0, width * 3 // 4))
        bottom, right = (
            top + int(rng.integers(8, height * 3 // 4)),
            left + int(rng.integers(8, width * 3 // 4)),
        )
    mask[top : bottom + 1, left : right + 1] = 1
    return mask


@dataclass(frozen=True)
class Bank:
    """Many drawings at once: images uint8 N x size x size x 3, masks uint8 N x size x size (0 or 255)."""

    images: ByteArray
    masks: ByteArray


def draw_bank(seed: int, count: int, size: int) -> Bank:
    """`count` drawings from one seed."""
    rng = np.random.default_rng(seed)
    drawings = [draw_random(rng, size) for _ in range(count)]
    return Bank(np.stack([d.image for d in drawings]), np.stack([d.mask for d in drawings]))


def crop_batch(rng: np.random.Generator, bank: Bank, batch: int, crop: int) -> tuple[ByteArray, ByteArray]:
    """Random crops, flipped and turned: images batch x crop x crop x 3 and masks; most contain some defect."""
    images, masks = [], []
    size = bank.images.shape[1]
    for index in rng.integers(0, len(bank.images), batch):
        top, left = rng.integers(0, size - crop + 1, 2)
        rows, columns = np.nonzero(bank.masks[index])
        if len(rows) and rng.random() < 0.7:
            pixel = rng.integers(0, len(rows))
            shift = rng.integers(crop // 8, crop - crop // 8, 2)
            top = int(np.clip(rows[pixel] - shift[0], 0, size - crop))
            left = int(np.clip(columns[pixel] - shift[1], 0, size - crop))
        window = np.s_[index, top : top + crop, left : left + crop]
        turns, flip = int(rng.integers(4)), bool(rng.integers(2))
        image, mask = np.rot90(bank.images[window], turns), np.rot90(bank.masks[window], turns)
        images.append(image[:, ::-1] if flip else image)
        masks.append(mask[:, ::-1] if flip else mask)
    return np.stack(images), np.stack(masks)
