"""Defects painted by mini into good surfaces: python examples/inpainting_gallery.py docs/inpainting-gallery.png

Four tiles each: the good image, the mask, the painted image, and the part around the defect, enlarged.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from flawsmith.drawing import draw
from flawsmith.generation.diffusion import LatentDiffusionModel, load_model
from flawsmith.generation.drawing_request import DrawingRequest, MaskedImages
from flawsmith.generation.masks import Crop, crop_around, drawn_masks, paste, place
from flawsmith.generation.strategies import STRATEGIES

SIDE = 192
COLUMNS = 2
NATIVE = 128
# Surface, kind of defect, prompt, share of the image that the defect covers.
SHOWN = (
    ("concrete", "crack", "concrete surface with a long dark crack", (0.01, 0.05)),
    ("leather", "hole", "leather surface with a dark hole", (0.01, 0.03)),
    ("fabric", "stain", "fabric surface with a dark stain", (0.02, 0.05)),
    ("wood", "scratch", "wood surface with a bright scratch", (0.005, 0.03)),
    ("ceramic", "chip", "ceramic surface with a dark chip", (0.01, 0.03)),
    ("brushed metal", "scratch", "brushed metal surface with a dark scratch", (0.005, 0.03)),
)


def paint(model: LatentDiffusionModel, surface: str, kind: str, prompt: str, areas: tuple[float, float]) -> np.ndarray:
    """The tiles of one surface, uint8, SIDE x 4 SIDE x 3."""
    rng = np.random.default_rng([3, len(surface), len(kind)])
    good = draw(rng, SIDE, SIDE, surface=surface, defect="none").image
    placed = place(drawn_masks(3, [kind]), np.full((SIDE, SIDE), 255, np.uint8), "texture", {kind: areas}, rng)
    crop = crop_around(placed.mask, 8, NATIVE)
    image, mask = _enlarged(good, crop, NATIVE), _enlarged(placed.mask, crop, NATIVE)
    request = DrawingRequest(
        strategy="inpaint", prompt=prompt, base_model_sha256="", height=image.shape[0], width=image.shape[1], steps=30,
        guidance=5.0, seeds=(7,),
    )  # fmt: skip
    seen = cv2.dilate(np.where(mask > 127, np.uint8(255), np.uint8(0)), np.ones((5, 5), np.uint8))
    drawn = STRATEGIES["inpaint"](model, request, None, MaskedImages(image[None], seen[None]))[0]
    painted = paste(good, drawn, placed.mask, crop, feather=2)
    mask_picture = cv2.cvtColor(placed.mask, cv2.COLOR_GRAY2RGB)
    return np.concatenate([good, mask_picture, painted, _enlarged(painted, crop, SIDE)], axis=1)


def _enlarged(picture: np.ndarray, crop: Crop, side: int) -> np.ndarray:
    return cv2.resize(crop.of(picture), (side, side), interpolation=cv2.INTER_CUBIC)


def main(out: Path) -> None:
    """Write the picture."""
    model = load_model(Path(__file__).parents[1] / "models/mini")
    tiles = [paint(model, *shown) for shown in SHOWN]
    rows = [np.concatenate(tiles[start : start + COLUMNS], axis=1) for start in range(0, len(tiles), COLUMNS)]
    Image.fromarray(np.concatenate(rows)).save(out, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
