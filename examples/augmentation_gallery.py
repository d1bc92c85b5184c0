"""A picture of every per-region method on the sample product, or on images of yours.

    python examples/augmentation_gallery.py docs/augmentation-gallery.png [IMAGE ...] [--foreground object]

A row for each image: the good part first, then two draws of each method, the outline of its mask in the second.
"""

from __future__ import annotations

from pathlib import Path

import click
import cv2
import numpy as np
from PIL import Image, ImageDraw

from flawsmith.augmentation.augment import augment, method_named
from flawsmith.augmentation.methods import METHODS
from flawsmith.common.images import decode_image
from flawsmith.drawing import draw_sample

HEIGHT, GAP, TITLE = 240, 4, 18


@click.command()
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("images", nargs=-1, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--foreground", type=click.Choice(["texture", "object"]), default="texture", show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(out: Path, images: tuple[Path, ...], foreground: str, seed: int) -> None:
    """Draw the gallery into OUT."""
    parts = [decode_image(path.read_bytes()) for path in images] or [
        draw_sample(np.random.default_rng(number), 240, 192, defective=False)[0] for number in range(3)
    ]
    rows = [_row(part, foreground, seed + 100 * number) for number, part in enumerate(parts)]
    width = max(sum(tile.shape[1] + GAP for _, tile in row) for row in rows)
    sheet = Image.new("RGB", (width, len(rows) * (HEIGHT + TITLE + GAP)), "white")
    pen = ImageDraw.Draw(sheet)
    for number, row in enumerate(rows):
        left, top = 0, number * (HEIGHT + TITLE + GAP)
        for title, tile in row:
            pen.text((left + 2, top + 3), title, fill="black")
            sheet.paste(Image.fromarray(tile), (left, top + TITLE))
            left += tile.shape[1] + GAP
    sheet.save(out)


def _row(part: np.ndarray, foreground: str, seed: int) -> list[tuple[str, np.ndarray]]:
    tiles = [("good", _scaled(part))]
    for name in sorted(METHODS):
        parameters = method_named(name).parameters.model_validate({"foreground": foreground})
        for draw in range(2):
            made = augment(part, np.random.default_rng([seed, draw]), method=name, parameters=parameters)
            tile = _scaled(made.image)
            if draw == 1:
                mask = cv2.resize(made.mask, tile.shape[1::-1], interpolation=cv2.INTER_NEAREST)
                cv2.drawContours(tile, cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)[0], -1, (255, 0, 0))
            tiles.append((name, tile))
    return tiles


def _scaled(image: np.ndarray) -> np.ndarray:
    width = round(image.shape[1] * HEIGHT / image.shape[0])
    return cv2.resize(image, (width, HEIGHT), interpolation=cv2.INTER_AREA)


if __name__ == "__main__":
    main()
