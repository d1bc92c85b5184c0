"""Pictures cut from the product's images that train painting defects in, as batches of the strategy `inpaint` do.

Whole images teach what the product looks like, and little of its defects: those are a hundredth of the pixels, and in
another scale than inpainting draws them. In a view the model reads the defect's surroundings and learns what lies under
the mask alone (the defect loss of Song et al. 2025, DefectFill).

Where the product has no defect to learn from, `flawsmith.drawing` draws some onto its good images. That is prior
preservation: a base model that can paint cracks would otherwise forget them, shown good surface alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch

from flawsmith.drawing import DEFECTS, defect_prompts, draw_defect, random_defect
from flawsmith.generation.diffusion import LatentDiffusionModel
from flawsmith.generation.drawing_request import MaskedImages
from flawsmith.generation.dreambooth import CachedImage, DefectView, scale_image
from flawsmith.generation.masks import MAX_ZOOM, Crop, widened
from flawsmith.generation.spec import FineTuneSpec
from flawsmith.generation.strategies.inpaint import repainting

_STREAM = 3
"""Of the random numbers of one seed; `dreambooth` has the others."""
_MAX_SIDE = 1.5
"""Sides of a view, of the defect's box: the model must know defects that fill its sight and such that do not."""
_KINDS = tuple(kind for kind in DEFECTS if kind != "none")


class View(NamedTuple):
    """A picture with a defect. image: uint8, side x side x 3. mask: uint8, side x side, 255 on the defect."""

    image: np.ndarray
    mask: np.ndarray
    prompt: str


def cut_views(
    images: Sequence[np.ndarray], masks: Sequence[np.ndarray | None], side: int, spec: FineTuneSpec
) -> list[View]:
    """`spec.defect_views` views of each image: of its own defect where the mask covers one, of a drawn one where the
    mask is empty. An image without a mask has none: nobody knows whether it is good.

    images: uint8, h x w x 3, any sizes. masks: uint8, h x w, 255 inside. side: pixels of the squares to cut.
    """
    return [
        _real_view(image, mask, side, spec.instance_prompt, rng)
        if mask.any()
        else _drawn_view(image, side, spec.instance_prompt, rng)
        for index, (image, mask) in enumerate(zip(images, masks, strict=True))
        if mask is not None and not mask.all()
        for rng in (np.random.default_rng([spec.seed, _STREAM, index, view]) for view in range(spec.defect_views))
    ]


def cache_views(model: LatentDiffusionModel, views: Sequence[View]) -> list[CachedImage]:
    """Encode views once, with what the model reads of them; they are as large as the model's native side."""
    if not views:
        return []
    side = views[0].image.shape[0]
    outlines = np.stack([widened(view.mask, model.size_multiple) for view in views])
    shown = repainting(model, MaskedImages(np.stack([view.image for view in views]), outlines), side, side)
    conditionings = [None] * len(views) if shown.conditioning is None else list(shown.conditioning)
    return [
        CachedImage(
            latents[None], torch.zeros_like(latents[None]), (latents.shape[1], latents.shape[2]),
            DefectView(view.prompt, mask, conditioning),
        )
        for view, latents, mask, conditioning in zip(views, shown.latents, shown.mask, conditionings, strict=True)
    ]  # fmt: skip


def _real_view(image: np.ndarray, mask: np.ndarray, side: int, prompt: str, rng: np.random.Generator) -> View:
    """Turned by quarters and over, as inpainting turns masks: whatever surrounds a defect is there to be read."""
    rows, columns = np.nonzero(mask)
    box = max(np.ptp(rows), np.ptp(columns)) + 1
    pixel = int(rng.integers(len(rows)))
    crop = _random_crop(mask, round(box * rng.uniform(1.0, _MAX_SIDE)), (rows[pixel], columns[pixel]), side, rng)
    turns, over = int(rng.integers(4)), bool(rng.integers(2))
    # A thin defect of a large image must not fall between the pixels of a view.
    outline = cv2.resize(
        crop.of(mask), (side, side), interpolation=cv2.INTER_AREA if crop.height > side else cv2.INTER_LINEAR
    )
    outline = np.where(outline > 0, np.uint8(255), np.uint8(0))
    return View(_turned(scale_image(crop.of(image), side, side), turns, over), _turned(outline, turns, over), prompt)


def _drawn_view(image: np.ndarray, side: int, prompt: str, rng: np.random.Generator) -> View:
    """A defect of any kind on a part of a good image as large as a view, or enlarged up to `MAX_ZOOM` times."""
    height, width = image.shape[:2]
    wanted = round(side / rng.uniform(1.0, MAX_ZOOM))
    crop = _random_crop(image, wanted, (int(rng.integers(height)), int(rng.integers(width))), side, rng)
    kind = _KINDS[int(rng.integers(len(_KINDS)))]
    good = scale_image(crop.of(image), side, side).astype(np.float32) / 255
    picture, outline = draw_defect(good, random_defect(rng, kind), rng)
    return View(
        np.rint(picture * 255).astype(np.uint8),
        np.where(outline, np.uint8(255), np.uint8(0)),
        defect_prompts(prompt, kind)[int(rng.integers(2))],
    )


def _random_crop(
    image: np.ndarray, wanted: int, point: tuple[int, int], native_side: int, rng: np.random.Generator
) -> Crop:
    """A square of about `wanted` pixels' side with a point (row, column) in its middle half, where the image's edge
    lets it."""
    height, width = image.shape[:2]
    side = min(max(wanted, native_side // MAX_ZOOM), height, width)
    top, left = (
        int(np.clip(position - round(side * rng.uniform(0.25, 0.75)), 0, total - side))
        for position, total in zip(point, (height, width), strict=True)
    )
    return Crop(top, left, side, side)


def _turned(pixels: np.ndarray, turns: int, over: bool) -> np.ndarray:
    turned = np.rot90(pixels, turns)
    return np.ascontiguousarray(np.flip(turned, 1) if over else turned)
