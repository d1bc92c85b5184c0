"""Decoded and resized images in one memory-mapped file: a picture is decoded once, not once an epoch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from flawsmith.classification.preprocess import preprocess
from flawsmith.common.errors import FieldViolation, FlawsmithError, InvalidArgumentError
from flawsmith.common.images import decode_image


def build_cache(
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
    files = list(paths)
    shape = (len(files), height, width, 3)
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
                file.write(preprocess(decode_image(path.read_bytes()), height, width).data)
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
