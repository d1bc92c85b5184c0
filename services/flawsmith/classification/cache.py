"""Decoded and resized images in one memory-mapped file: a picture is decoded once, not once an epoch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from flawsmith.classification.preprocess import preprocess, preprocess_mask
from flawsmith.common.errors import FieldViolation, FlawsmithError, InvalidArgumentError
from flawsmith.common.images import decode_image, decode_mask


def cache_images(
    paths: Iterable[Path],
    height: int,
    width: int,
    target: Path,
    progress: Callable[[int, int], None],
) -> np.ndarray:
    """Decode and preprocess files into `target` (.npy), uint8, N x height x width x 3, returned memory-mapped.

    progress: called with (done, total). A whole file of the right shape is used again.
    Raises InvalidArgumentError IMAGES_UNREADABLE listing every bad file.
    """

    def read(data: bytes) -> np.ndarray:
        return preprocess(decode_image(data), height, width)

    return _cache(list(paths), (height, width, 3), read, target, progress)


def cache_masks(
    paths: Iterable[Path],
    height: int,
    width: int,
    target: Path,
    progress: Callable[[int, int], None],
) -> np.ndarray:
    """As `cache_images` for masks: uint8, N x height x width, 0 or 255."""

    def read(data: bytes) -> np.ndarray:
        return preprocess_mask(decode_mask(data), height, width)

    return _cache(list(paths), (height, width), read, target, progress)


def _cache(
    files: list[Path],
    shape_of_one: tuple[int, ...],
    read: Callable[[bytes], np.ndarray],
    target: Path,
    progress: Callable[[int, int], None],
) -> np.ndarray:
    shape = (len(files), *shape_of_one)
    if not files:
        return np.empty(shape, dtype=np.uint8)  # nothing can be mapped of an empty file
    if target.exists():
        cached = np.load(target, mmap_mode="r")
        if cached.shape == shape:
            return cached
    partial = target.with_suffix(".partial")
    problems: list[FieldViolation] = []
    with partial.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for index, path in enumerate(files):
            try:
                file.write(read(path.read_bytes()).data)
            except FlawsmithError as error:
                problems.append(FieldViolation(path.name, error.message))
            progress(index + 1, len(files))
    if problems:
        partial.unlink()
        raise InvalidArgumentError(
            "IMAGES_UNREADABLE",
            f"{len(problems)} of {len(files)} images of the data set cannot be read; replace them and assemble "
            "the data set again",
            fields=problems,
        )
    os.replace(partial, target)
    return np.load(target, mmap_mode="r")
