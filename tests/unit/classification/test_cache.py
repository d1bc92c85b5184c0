"""A picture is decoded once, into a file that is mapped and not read whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flawsmith.classification.cache import cache_images, cache_masks
from flawsmith.classification.preprocess import preprocess
from flawsmith.common.images import encode_png

HEIGHT, WIDTH = 24, 16


@pytest.fixture
def pictures() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (60, 20 + 4 * index, 3), dtype=np.uint8) for index in range(4)]


@pytest.fixture
def files(pictures: list[np.ndarray], tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{index}.png" for index in range(len(pictures))]
    for path, picture in zip(paths, pictures, strict=True):
        path.write_bytes(encode_png(picture))
    return paths


def test_images_are_decoded_once_and_mapped(files: list[Path], pictures: list[np.ndarray], tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    target = tmp_path / "images.npy"
    cached = cache_images(files, HEIGHT, WIDTH, target, lambda *step: done.append(step))
    assert isinstance(cached, np.memmap)
    assert not cached.flags.writeable
    np.testing.assert_array_equal(cached, [preprocess(picture, HEIGHT, WIDTH) for picture in pictures])
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert not target.with_suffix(".partial").exists()
    for path in files:
        path.unlink()
    again = cache_images(files, HEIGHT, WIDTH, target, lambda *step: done.append(step))
    np.testing.assert_array_equal(again, cached)
    assert len(done) == 4


def test_another_size_is_decoded_anew(files: list[Path], pictures: list[np.ndarray], tmp_path: Path) -> None:
    target = tmp_path / "images.npy"
    cache_images(files, HEIGHT, WIDTH, target, lambda *step: None)
    wider = cache_images(files, HEIGHT, 2 * WIDTH, target, lambda *step: None)
    np.testing.assert_array_equal(wider, [preprocess(picture, HEIGHT, 2 * WIDTH) for picture in pictures])


def test_no_masks_are_an_empty_array(tmp_path: Path) -> None:
    masks = cache_masks([], HEIGHT, WIDTH, tmp_path / "masks.npy", lambda *step: None)
    assert (masks.shape, masks.dtype) == ((0, HEIGHT, WIDTH), np.uint8)
