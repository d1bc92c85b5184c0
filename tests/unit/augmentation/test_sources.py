"""Textures: drawn by us, from a folder, from a pool."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flawsmith.augmentation import kernels
from flawsmith.augmentation.sources import ImagePool, folder_pool
from flawsmith.augmentation.textures import _KINDS, procedural_texture
from flawsmith.common.errors import InvalidArgumentError
from flawsmith.common.images import encode_png


@settings(max_examples=40, deadline=None)
@given(height=st.integers(32, 400), width=st.integers(32, 400), seed=st.integers(0))
def test_procedural_textures_of_any_size(height: int, width: int, seed: int) -> None:
    picture, drawn = procedural_texture(np.random.default_rng(seed), height, width)
    image = picture.whole()
    assert image.shape == (height, width, 3)
    assert image.dtype == np.uint8
    assert drawn["texture"] in _KINDS
    places = np.random.default_rng(seed).integers(0, height * width, 50, dtype=np.int32)
    np.testing.assert_array_equal(picture.at(places)[0], image.reshape(-1, 3)[places])
    again, _ = procedural_texture(np.random.default_rng(seed), height, width)
    assert image.tobytes() == again.whole().tobytes()


def test_procedural_textures_vary() -> None:
    """Within a texture, and from one to the next; with details of all sizes."""
    means, spreads, coarse = [], [], []
    for seed in range(200):
        image = procedural_texture(np.random.default_rng(seed), 96, 96)[0].whole()
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(float)
        means.append(image.mean(axis=(0, 1)))
        spreads.append(image.reshape(-1, 3).std(axis=0).max())
        # Share of the variance that is left after averaging blocks of 8 pixels.
        blocks = grey.reshape(12, 8, 12, 8).mean(axis=(1, 3))
        coarse.append(blocks.var() / max(grey.var(), 1e-9))
    assert np.quantile(spreads, 0.05) > 8
    assert np.std(means, axis=0).min() > 30
    assert np.quantile(coarse, 0.2) < 0.2
    assert np.quantile(coarse, 0.8) > 0.35


def test_a_mix_is_a_weighted_mean() -> None:
    levels = np.arange(256, dtype=np.uint8)
    fields = tuple(np.ascontiguousarray(field) for field in np.meshgrid(levels, levels))
    for weights in ((5, 2), (3, 1), (7, 1), (1, 1), (13, 7)):
        expected = sum(w * f.astype(int) for w, f in zip(weights, fields, strict=True)) // sum(weights)
        np.testing.assert_array_equal(kernels.mix(fields, weights), expected)
    third = np.random.default_rng(0).integers(0, 256, (256, 256), dtype=np.uint8)
    expected = (4 * fields[0].astype(int) + 3 * fields[1].astype(int) + 2 * third.astype(int)) // 9
    np.testing.assert_array_equal(kernels.mix((*fields, third), (4, 3, 2)), expected)


def test_bands_rise_and_fall_evenly_and_noise_bends_them() -> None:
    flat = np.zeros((40, 64), np.uint8)
    made = kernels.bands(flat, 65536 // 16, 0, 100)
    np.testing.assert_array_equal(made, np.broadcast_to(made[0], made.shape))
    np.testing.assert_array_equal(
        made[0, :16], [0, 32, 64, 96, 128, 160, 192, 224, 254, 222, 190, 158, 126, 94, 62, 30]
    )
    np.testing.assert_array_equal(made[:, 16:], made[:, :-16])
    across_rows = kernels.bands(np.zeros((64, 40), np.uint8), 0, 65536 // 16, 100)
    np.testing.assert_array_equal(across_rows, made[0][:, None].repeat(40, axis=1))
    bent = kernels.bands(np.full_like(flat, 8), 65536 // 16, 0, 65536 // 16)
    np.testing.assert_array_equal(bent, np.roll(made, -8, axis=1))


@pytest.mark.parametrize("stops", [2, 3, 4, 5])
def test_a_palette_runs_straight_from_stop_to_stop(stops: int) -> None:
    for seed in range(200):
        path = np.random.default_rng(seed).integers(0, 256, (stops, 3))
        places = np.linspace(0, 255, stops)
        expected = [np.rint(np.interp(np.arange(256), places, path[:, channel])) for channel in range(3)]
        np.testing.assert_array_equal(kernels.palette(path), np.stack(expected, axis=1))


def test_a_pool_draws_all_of_its_images_and_says_which() -> None:
    pictures = {name: np.full((20, 30, 3), level, np.uint8) for name, level in (("a", 10), ("b", 20), ("c", 30))}
    loaded: list[int] = []

    def load(index: int) -> np.ndarray:
        loaded.append(index)
        return list(pictures.values())[index]

    pool = ImagePool(list(pictures), load)
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(60):
        picture, drawn = pool(rng, 40, 50)
        image = picture.whole()
        assert image.shape == (40, 50, 3)
        assert (image == pictures[drawn["image"]][0, 0, 0]).all()
        seen.add(drawn["image"])
    assert seen == {"a", "b", "c"}
    assert sorted(loaded) == [0, 1, 2], "each is decoded and scaled once"


def test_a_pool_keeps_no_more_than_it_may() -> None:
    loaded: list[int] = []

    def load(index: int) -> np.ndarray:
        loaded.append(index)
        return np.zeros((10, 10, 3), np.uint8)

    pool = ImagePool([str(index) for index in range(8)], load, max_bytes=2 * 10 * 10 * 3)
    for index in range(8):
        pool._get(index, 10, 10)
    pool._get(7, 10, 10)
    assert loaded == list(range(8)), "the last ones are kept"
    pool._get(0, 10, 10)
    assert loaded[-1] == 0, "the first is gone"
    assert pool._bytes <= 2 * 10 * 10 * 3


def test_folders(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.png").write_bytes(encode_png(np.full((32, 40, 3), 77, np.uint8)))
    (tmp_path / "notes.txt").write_text("no image")
    picture, drawn = folder_pool(tmp_path)(np.random.default_rng(0), 64, 64)
    assert (picture.whole() == 77).all()
    assert drawn["image"] == "deep/a.png"
    (tmp_path / "deep" / "a.png").write_bytes(b"torn")
    with pytest.raises(InvalidArgumentError) as caught:
        folder_pool(tmp_path)(np.random.default_rng(0), 64, 64)
    assert caught.value.reason == "IMAGE_UNREADABLE"
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InvalidArgumentError) as caught:
        folder_pool(empty)
    assert caught.value.reason == "NO_TEXTURES"
