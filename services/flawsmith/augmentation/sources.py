"""Where a method's foreign pixels come from: textures drawn by us, or images of the user's."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from flawsmith.augmentation.photometric import Picture
from flawsmith.common.errors import FieldViolation, InvalidArgumentError
from flawsmith.common.images import decode_image

ImageSource = Callable[[np.random.Generator, int, int], tuple[Picture, dict[str, Any]]]
"""(rng, height, width) -> (RGB picture of that size, what was drawn)."""


class ImagePool:
    """An `ImageSource` that draws one of many images and scales it to the size asked for, as MemSeg and DRAEM do.

    names: of the images, recorded with each draw. load: decodes the image at an index, uint8 RGB of any size.
    max_bytes: of scaled images that are kept; those least recently used go first. Threads may share a pool.
    """

    def __init__(
        self, names: Sequence[str], load: Callable[[int], np.ndarray], *, max_bytes: int = 256 * 2**20
    ) -> None:
        if not names:
            raise InvalidArgumentError(
                "NO_TEXTURES",
                "there is no image to take textures from; add PNG, JPEG, BMP or TIFF files, or leave textures out",
                fields=[FieldViolation("textures", "holds no image")],
            )
        self._names = list(names)
        self._load = load
        self._max_bytes = max_bytes
        self._scaled: OrderedDict[tuple[int, int, int], np.ndarray] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __call__(self, rng: np.random.Generator, height: int, width: int) -> tuple[Picture, dict[str, Any]]:
        """One of the images, scaled. The array is shared: treat it as read-only. Raises what `load` raises."""
        index = int(rng.integers(len(self._names)))
        return Picture(self._get(index, height, width)), {"image": self._names[index]}

    def _get(self, index: int, height: int, width: int) -> np.ndarray:
        key = (index, height, width)
        with self._lock:
            if key in self._scaled:
                self._scaled.move_to_end(key)
                return self._scaled[key]
        # The exact variant gives the same bytes whatever the CPU.
        scaled = cv2.resize(self._load(index), (width, height), interpolation=cv2.INTER_LINEAR_EXACT)
        with self._lock:
            if key not in self._scaled and scaled.nbytes <= self._max_bytes:
                self._scaled[key] = scaled
                self._bytes += scaled.nbytes
                while self._bytes > self._max_bytes:
                    self._bytes -= self._scaled.popitem(last=False)[1].nbytes
        return scaled


def folder_pool(folder: Path) -> ImagePool:
    """A pool of all images under a folder, by their relative paths.

    Raises InvalidArgumentError (NO_TEXTURES); drawing from it, the errors of `decode_image`.
    """
    suffixes = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes)
    names = [str(path.relative_to(folder)) for path in paths]
    return ImagePool(names, lambda index: decode_image(paths[index].read_bytes()))
