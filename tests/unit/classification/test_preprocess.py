import numpy as np
import pytest

from flawsmith.classification.preprocess import preprocess, preprocess_mask


def gradient(height: int, width: int) -> np.ndarray:
    """Red is the row, green the column, so that a crop shows where it came from."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.zeros_like(rows)], axis=2).astype(np.uint8)


def test_image_of_the_target_size_is_unchanged() -> None:
    image = gradient(60, 20)
    np.testing.assert_array_equal(preprocess(image, 60, 20), image)


def test_tall_image_loses_rows_at_both_ends() -> None:
    cropped = preprocess(gradient(80, 20), 60, 20)
    np.testing.assert_array_equal(cropped, gradient(80, 20)[10:70])


def test_wide_image_loses_columns_at_both_ends() -> None:
    cropped = preprocess(gradient(60, 40), 60, 20)
    np.testing.assert_array_equal(cropped, gradient(60, 40)[:, 10:30])


@pytest.mark.parametrize(("height", "width"), [(640, 230), (617, 250), (100, 100), (1, 1), (7, 500)])
def test_any_size_becomes_height_by_width(height: int, width: int) -> None:
    image = preprocess(np.zeros((height, width, 3), np.uint8), 600, 200)
    assert image.shape == (600, 200, 3)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous


def test_shrinking_averages_so_that_a_one_pixel_scratch_stays_visible() -> None:
    for column in range(8, 16):
        image = np.full((64, 64, 3), 100, np.uint8)
        image[:, column] = 200
        small = preprocess(image, 16, 16)
        assert small.max() == 125  # a quarter of the scratch's contrast, wherever it lies


@pytest.mark.parametrize("size", [(640, 230), (300, 100), (64, 200)])
def test_masks_are_cropped_as_their_images(size: tuple[int, int]) -> None:
    image = np.zeros((*size, 3), np.uint8)
    top, left = size[0] // 2 - 10, size[1] // 2 - 8
    image[top : top + 20, left : left + 16] = 255
    mask = preprocess_mask(image[..., 0].copy(), 120, 48)
    assert mask.shape == (120, 48)
    assert set(np.unique(mask)) == {0, 255}
    shown = preprocess(image, 120, 48)[..., 0]
    np.testing.assert_array_equal(mask > 0, shown > 0)


def test_a_scratch_of_one_pixel_survives_shrinking() -> None:
    mask = np.zeros((600, 200), np.uint8)
    mask[:, 101] = 255
    assert (preprocess_mask(mask, 60, 20) > 0).sum(axis=1).tolist() == [1] * 60
