"""The augmentations against their formulas, Pillow and colorsys."""

import colorsys

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from flawsmith.augmentation import photometric
from flawsmith.augmentation.photometric import ANOMALIB_TEN, IMGAUG_TEN, jitter, shuffle_grid, three_of


def noisy(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).integers(60, 200, shape, dtype=np.uint8)


def of_seed(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("ten", [IMGAUG_TEN, ANOMALIB_TEN])
@pytest.mark.parametrize("shape", [(33, 47, 3), (160, 128, 3), (33, 47), (32, 32)])
def test_each_keeps_size_type_and_input(ten: dict[str, photometric.Augmentation], shape: tuple[int, ...]) -> None:
    assert len(ten) == 10
    for seed in range(12):  # AutoAugment has 25 policies
        for name, augmentation in ten.items():
            image = noisy(*shape)
            made, drawn = augmentation(of_seed(seed), image)
            assert made.shape == image.shape, name
            assert made.dtype == np.uint8
            assert isinstance(drawn, dict)
            np.testing.assert_array_equal(image, noisy(*shape))
            if len(shape) == 3:
                # Grey in three channels and in one are the same picture.
                plane = np.ascontiguousarray(image[:, :, 0])
                if name not in ("gamma_contrast",):  # which draws once for each channel
                    as_plane = augmentation(of_seed(seed), plane)[0]
                    as_rgb = augmentation(of_seed(seed), np.repeat(plane[:, :, None], 3, axis=2))[0]
                    assert np.abs(as_rgb[:, :, 0].astype(int) - as_plane).max() <= 1, name


def test_look_up_formulas() -> None:
    image = noisy(40, 40, 3)
    np.testing.assert_array_equal(IMGAUG_TEN["invert"](of_seed(0), image)[0], 255 - image)
    made, drawn = IMGAUG_TEN["gamma_contrast"](of_seed(0), image)
    np.testing.assert_allclose(made, 255 * (image / 255) ** np.array(drawn["gamma"]), atol=0.5 + 1e-9)
    made, drawn = IMGAUG_TEN["posterize"](of_seed(0), image)
    step = 2 ** (8 - drawn["bits"])
    np.testing.assert_array_equal(made, image // step * step)
    np.testing.assert_array_equal(
        made, np.asarray(ImageOps.posterize(Image.fromarray(image), drawn["bits"])), "Pillow's definition"
    )
    thresholds = set()
    for seed in range(60):
        made, drawn = IMGAUG_TEN["solarize"](of_seed(seed), image)
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
        made, drawn = IMGAUG_TEN["sharpness"](of_seed(seed), image)
        expected = np.asarray(ImageEnhance.Sharpness(picture).enhance(drawn["factor"]))
        assert np.abs(made.astype(int) - expected).max() <= 1
        made, drawn = ANOMALIB_TEN["contrast"](of_seed(seed), image)
        expected = np.asarray(ImageEnhance.Contrast(picture).enhance(drawn["factor"]))
        assert np.abs(made.astype(int) - expected).max() <= 2  # Pillow rounds the mean to a whole level
    stretched = photometric._stretched(image, 0)
    assert np.abs(stretched.astype(int) - np.asarray(ImageOps.autocontrast(picture))).max() <= 1
    large = noisy(400, 300, *shape[2:])  # Pillow rounds pixels a level to a whole number: with few it is far off
    equalised = IMGAUG_TEN["equalize"](of_seed(0), large)[0]
    assert np.abs(equalised.astype(int) - np.asarray(ImageOps.equalize(Image.fromarray(large)))).max() <= 3


def test_autocontrast_cuts_a_share_of_either_end() -> None:
    image = np.arange(0, 100, dtype=np.uint8).repeat(10).reshape(40, 25)
    made = photometric._stretched(image, 10)
    assert (made == 0).mean() == pytest.approx(0.1, abs=0.02)
    assert (made == 255).mean() == pytest.approx(0.1, abs=0.02)


def test_hue_saturation_and_value_are_those_of_colorsys() -> None:
    image = np.random.default_rng(1).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    image[0], image[1] = 77, 0
    for seed in range(5):
        made, drawn = IMGAUG_TEN["hue_and_saturation"](of_seed(seed), image)
        turned, turned_drawn = ANOMALIB_TEN["hue_saturation"](of_seed(seed), image)
        lit, lit_drawn = IMGAUG_TEN["brightness"](of_seed(seed), image)
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
    image = noisy(32, 32)
    policies = [ANOMALIB_TEN["auto_augment"](of_seed(seed), image)[1]["policy"] for seed in range(2000)]
    counts = np.bincount(policies, minlength=25)
    # Chi-squared with 24 degrees of freedom: 51.2 is passed by chance once in a thousand times.
    assert ((counts - 80) ** 2 / 80).sum() < 51.2


def test_three_of_are_different_ones() -> None:
    image = noisy(32, 32, 3)
    for seed in range(50):
        _, applied = three_of(of_seed(seed), image, IMGAUG_TEN)
        assert len({entry["name"] for entry in applied}) == 3


def test_grid_shuffle_moves_whole_cells() -> None:
    for shape in ((64, 48, 3), (64, 48)):
        image = noisy(*shape)
        shuffled, order = shuffle_grid(of_seed(1), image, 8, 8)
        assert sorted(order) == list(range(64))
        for place, origin in enumerate(order):
            row, column = divmod(place, 8)
            from_row, from_column = divmod(origin, 8)
            np.testing.assert_array_equal(
                shuffled[row * 8 : row * 8 + 8, column * 6 : column * 6 + 6],
                image[from_row * 8 : from_row * 8 + 8, from_column * 6 : from_column * 6 + 6],
            )


def test_jitter_of_nothing_changes_nothing() -> None:
    image = noisy(30, 20, 3)
    made, drawn = jitter(of_seed(0), image, 0.0)
    np.testing.assert_array_equal(made, image)
    assert set(drawn.values()) == {1.0}
