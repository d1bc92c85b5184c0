"""The augmentations against their formulas, Pillow and colorsys."""

import colorsys
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from flawsmith.augmentation import photometric
from flawsmith.augmentation.photometric import (
    ANOMALIB_TEN,
    IMGAUG_TEN,
    Augmentation,
    Picture,
    channels_of,
    jitter,
    shuffle_grid,
    take,
    three_of,
)


def noisy(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).integers(60, 200, shape, dtype=np.uint8)


def of_seed(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def augmented(augmentation: Augmentation, seed: int, image: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    changes, drawn = augmentation(of_seed(seed), channels_of(image))
    return Picture(image, changes).whole(), drawn


def everywhere(image: np.ndarray) -> np.ndarray:
    return np.arange(image.shape[0] * image.shape[1], dtype=np.int32)


@pytest.mark.parametrize("ten", [IMGAUG_TEN, ANOMALIB_TEN])
@pytest.mark.parametrize("shape", [(33, 47, 3), (160, 128, 3), (33, 47), (32, 32)])
def test_each_keeps_size_type_and_input(ten: dict[str, Augmentation], shape: tuple[int, ...]) -> None:
    assert len(ten) == 10
    for seed in range(12):  # AutoAugment has 25 policies
        for name, augmentation in ten.items():
            image = noisy(*shape)
            made, drawn = augmented(augmentation, seed, image)
            assert made.shape == image.shape, name
            assert made.dtype == np.uint8
            assert isinstance(drawn, dict)
            np.testing.assert_array_equal(image, noisy(*shape))
            if len(shape) == 3:
                # Grey in three channels and in one are the same picture.
                plane = np.ascontiguousarray(image[:, :, 0])
                if name not in ("gamma_contrast",):  # which draws once for each channel
                    as_plane = augmented(augmentation, seed, plane)[0]
                    as_rgb = augmented(augmentation, seed, np.repeat(plane[:, :, None], 3, axis=2))[0]
                    assert np.abs(as_rgb[:, :, 0].astype(int) - as_plane).max() <= 1, name


def test_look_up_formulas() -> None:
    image = noisy(40, 40, 3)
    np.testing.assert_array_equal(augmented(IMGAUG_TEN["invert"], 0, image)[0], 255 - image)
    made, drawn = augmented(IMGAUG_TEN["gamma_contrast"], 0, image)
    np.testing.assert_allclose(made, 255 * (image / 255) ** np.array(drawn["gamma"]), atol=0.5 + 1e-9)
    made, drawn = augmented(IMGAUG_TEN["posterize"], 0, image)
    step = 2 ** (8 - drawn["bits"])
    np.testing.assert_array_equal(made, image // step * step)
    np.testing.assert_array_equal(
        made, np.asarray(ImageOps.posterize(Image.fromarray(image), drawn["bits"])), "Pillow's definition"
    )
    thresholds = set()
    for seed in range(60):
        made, drawn = augmented(IMGAUG_TEN["solarize"], seed, image)
        if drawn["applied"]:
            thresholds.add(drawn["threshold"])
            assert 32 <= drawn["threshold"] <= 128
            np.testing.assert_array_equal(made, np.where(image >= drawn["threshold"], 255 - image, image))
        else:
            np.testing.assert_array_equal(made, image)
    assert len(thresholds) > 10, "drawn for every image, not once"


@pytest.mark.parametrize("shape", [(40, 31, 3), (33, 40)])
def test_sharpness_contrast_and_equalisation_are_pillows(shape: tuple[int, ...]) -> None:
    image = noisy(*shape)
    picture = Image.fromarray(image)
    for seed in range(8):
        made, drawn = augmented(IMGAUG_TEN["sharpness"], seed, image)
        expected = np.asarray(ImageEnhance.Sharpness(picture).enhance(drawn["factor"]))
        assert np.abs(made.astype(int) - expected).max() <= 1
        made, drawn = augmented(ANOMALIB_TEN["contrast"], seed, image)
        expected = np.asarray(ImageEnhance.Contrast(picture).enhance(drawn["factor"]))
        assert np.abs(made.astype(int) - expected).max() <= 2  # Pillow rounds the mean to a whole level
    stretched = photometric._stretched(0).of_image(image)
    assert np.abs(stretched.astype(int) - np.asarray(ImageOps.autocontrast(picture))).max() <= 1
    large = noisy(400, 300, *shape[2:])  # Pillow rounds pixels a level to a whole number: with few it is far off
    equalised = augmented(IMGAUG_TEN["equalize"], 0, large)[0]
    assert np.abs(equalised.astype(int) - np.asarray(ImageOps.equalize(Image.fromarray(large)))).max() <= 3


def test_autocontrast_cuts_a_share_of_either_end() -> None:
    image = np.arange(0, 100, dtype=np.uint8).repeat(10).reshape(40, 25)
    made = photometric._stretched(10).of_image(image)
    assert (made == 0).mean() == pytest.approx(0.1, abs=0.02)
    assert (made == 255).mean() == pytest.approx(0.1, abs=0.02)


def test_hue_saturation_and_value_are_those_of_colorsys() -> None:
    image = np.random.default_rng(1).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    image[0], image[1] = 77, 0
    for seed in range(5):
        made, drawn = augmented(IMGAUG_TEN["hue_and_saturation"], seed, image)
        turned, turned_drawn = augmented(ANOMALIB_TEN["hue_saturation"], seed, image)
        lit, lit_drawn = augmented(IMGAUG_TEN["brightness"], seed, image)
        for row, column in np.ndindex(20, 20):
            hue, saturation, value = colorsys.rgb_to_hsv(*(image[row, column] / 255))
            if saturation > 0:
                raised = min(max(saturation + drawn["saturation"] / 255, 0), 1)
                expected = colorsys.hsv_to_rgb((hue + drawn["hue"] / 510) % 1, raised, value)
                assert np.abs(made[row, column] / 255 - expected).max() <= 1.01 / 255
                scaled = min(saturation * turned_drawn["saturation"], 1)
                expected = colorsys.hsv_to_rgb((hue + turned_drawn["hue_degrees"] / 360) % 1, scaled, value)
                assert np.abs(turned[row, column] / 255 - expected).max() <= 1.01 / 255
            else:
                np.testing.assert_array_equal(made[row, column], image[row, column])
            bright = min(max(value * lit_drawn["factor"] + lit_drawn["offset"] / 255, 0), 1)
            expected = colorsys.hsv_to_rgb(hue, saturation, bright)
            assert np.abs(lit[row, column] / 255 - expected).max() <= 1.01 / 255


def test_auto_augment_draws_every_policy_alike() -> None:
    policies = [ANOMALIB_TEN["auto_augment"](of_seed(seed), 1)[1]["policy"] for seed in range(2000)]
    counts = np.bincount(policies, minlength=25)
    # Chi-squared with 24 degrees of freedom: 51.2 is passed by chance once in a thousand times.
    assert ((counts - 80) ** 2 / 80).sum() < 51.2


def test_three_of_are_different_ones() -> None:
    for seed in range(50):
        _, applied = three_of(of_seed(seed), 3, IMGAUG_TEN)
        assert len({entry["name"] for entry in applied}) == 3


@pytest.mark.parametrize("ten", [IMGAUG_TEN, ANOMALIB_TEN])
@pytest.mark.parametrize("shape", [(64, 90, 3), (64, 90)])
def test_changes_at_some_places_are_those_of_the_whole_image(
    ten: dict[str, Augmentation], shape: tuple[int, ...]
) -> None:
    image = noisy(*shape)
    for seed in range(150):
        changes, _ = three_of(of_seed(seed), channels_of(image), ten)
        places = of_seed(seed).permutation(everywhere(image))[: 1 + seed]
        expected = Picture(image, changes).whole().reshape(len(everywhere(image)), *shape[2:])[places]
        np.testing.assert_array_equal(Picture(image, changes).at(places)[0], expected)


def test_equalisation_is_opencvs() -> None:
    levels = (noisy(40, 31), noisy(40, 31) // 16 * 16, np.full((9, 9), 7, np.uint8), np.eye(9, dtype=np.uint8) * 255)
    for image in levels:
        np.testing.assert_array_equal(augmented(IMGAUG_TEN["equalize"], 0, image)[0], cv2.equalizeHist(image))


@pytest.mark.parametrize(
    ("shape", "grid"), [((64, 48, 3), (8, 8)), ((64, 48), (8, 8)), ((37, 61), (5, 7)), ((33, 40, 3), (32, 32))]
)
def test_grid_shuffle_moves_whole_cells(shape: tuple[int, ...], grid: tuple[int, int]) -> None:
    """Of the image, mirrored up to the next multiple of the grid."""
    image = noisy(*shape)
    rows, columns = grid
    height, width = -(-shape[0] // rows), -(-shape[1] // columns)
    padded = cv2.copyMakeBorder(image, 0, height * rows - shape[0], 0, width * columns - shape[1], cv2.BORDER_REFLECT)
    origins, order = shuffle_grid(of_seed(1), everywhere(image), shape[:2], rows, columns)
    assert sorted(order) == list(range(rows * columns))
    expected = np.empty_like(padded)
    for place, origin in enumerate(order):
        row, column = divmod(place, columns)
        from_row, from_column = divmod(origin, columns)
        expected[row * height : (row + 1) * height, column * width : (column + 1) * width] = padded[
            from_row * height : (from_row + 1) * height, from_column * width : (from_column + 1) * width
        ]
    np.testing.assert_array_equal(take(image, origins).reshape(shape), expected[: shape[0], : shape[1]])


def test_jitter_of_nothing_changes_nothing() -> None:
    image = noisy(30, 20, 3)
    made, drawn = jitter(of_seed(0), image, 0.0)
    np.testing.assert_array_equal(made, image)
    assert set(drawn.values()) == {1.0}
