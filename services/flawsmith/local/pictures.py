"""The pictures that the demo leaves: the contact sheet and the precision-recall curve."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

matplotlib.use("Agg")
import matplotlib.pyplot as plt

_OUTLINE = (255, 40, 40)
_MARGIN = 8
_LABEL_HEIGHT = 26


@dataclass(frozen=True)
class Tile:
    """An image (uint8, H x W x 3) and its mask (uint8, H x W, 0 or 255; None where there is none)."""

    image: np.ndarray
    mask: np.ndarray | None = None


def contact_sheet(rows: dict[str, list[Tile]], path: Path, *, tile_height: int = 180) -> None:
    """Write labelled rows of images as PNG; masks are shown as outlines. Rows without images say so."""
    scaled = {label: [_scaled(tile, tile_height) for tile in tiles] for label, tiles in rows.items()}
    widths = [sum(image.shape[1] + _MARGIN for image in images) for images in scaled.values()]
    width = max([*widths, 560]) + _MARGIN
    height = sum(_LABEL_HEIGHT + (tile_height if images else 0) + _MARGIN for images in scaled.values()) + _MARGIN
    sheet = Image.new("RGB", (width, height), (250, 250, 250))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=16)
    top = _MARGIN
    for label, images in scaled.items():
        draw.text((_MARGIN, top), label if images else f"{label}: none", fill=(20, 20, 20), font=font)
        top += _LABEL_HEIGHT
        left = _MARGIN
        for image in images:
            sheet.paste(Image.fromarray(image), (left, top))
            left += image.shape[1] + _MARGIN
        top += (tile_height if images else 0) + _MARGIN
    sheet.save(path)


def _scaled(tile: Tile, height: int) -> np.ndarray:
    scale = height / tile.image.shape[0]
    size = (max(1, round(tile.image.shape[1] * scale)), height)
    image = cv2.resize(tile.image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    if tile.mask is not None and tile.mask.any():
        mask = cv2.resize(tile.mask, size, interpolation=cv2.INTER_NEAREST)
        # One pixel outside of the mask, so that the outline hides nothing of the defect.
        around = cv2.dilate(mask, np.ones((5, 5), np.uint8))
        contours, _ = cv2.findContours(around, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        image = cv2.drawContours(image.copy(), contours, -1, _OUTLINE, 1)
    return np.asarray(image)


def precision_recall_plot(
    curves: dict[str, tuple[list[float], list[float]]], operating_point: tuple[float, float], path: Path
) -> None:
    """Write precision-recall curves as PNG.

    curves: label -> (recall, precision). operating_point: recall and precision at the deployed threshold.
    """
    figure, axes = plt.subplots(figsize=(6, 5), dpi=110)
    for label, (recall, precision) in curves.items():
        axes.plot(recall, precision, label=label, drawstyle="steps-post")
    axes.plot(*operating_point, "o", color="black", label="deployed threshold")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.05), title="real test split")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
