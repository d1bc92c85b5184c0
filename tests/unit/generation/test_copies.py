"""Copies of training images are told from other pictures of the same product."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from flawsmith.common.manifests import CopyThresholds
from flawsmith.drawing import draw_sample
from flawsmith.generation.copies import (
    MIN_HELD_OUT,
    MIN_WHOLE,
    MIN_WINDOW,
    TrainingImages,
    calibrate,
    is_copy,
)

HEIGHT, WIDTH = 160, 128


def plates(first: int, count: int, *, defective: bool) -> list[np.ndarray]:
    """Steel plates of the sample product; each number is another plate."""
    return [
        draw_sample(np.random.default_rng(number), HEIGHT, WIDTH, defective=defective)[0]
        for number in range(first, first + count)
    ]


@pytest.fixture(scope="module")
def originals() -> list[np.ndarray]:
    return plates(0, 5, defective=True)


@pytest.fixture(scope="module")
def training(originals: list[np.ndarray]) -> TrainingImages:
    return TrainingImages(originals)


@pytest.fixture(scope="module")
def thresholds(training: TrainingImages) -> CopyThresholds:
    found = calibrate(training, plates(100, 60, defective=False))
    assert found is not None
    return found


def exact(image: np.ndarray) -> np.ndarray:
    return image


def shifted(image: np.ndarray) -> np.ndarray:
    matrix = np.array([[1, 0, 3], [0, 1, -2]], dtype=np.float32)
    return np.asarray(cv2.warpAffine(image, matrix, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT))


def darker(image: np.ndarray) -> np.ndarray:
    return np.clip(image * 0.7 + 10, 0, 255).astype(np.uint8)


def mirrored(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image[:, ::-1])


def soft(image: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 4, image.shape)
    return np.clip(cv2.GaussianBlur(image, (0, 0), 1.5) + noise, 0, 255).astype(np.uint8)


def larger(image: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.resize(image, (WIDTH + 16, HEIGHT + 20), interpolation=cv2.INTER_CUBIC))


@pytest.mark.parametrize("change", [exact, shifted, darker, mirrored, soft, larger])
def test_a_changed_copy_is_flagged_with_the_image_that_it_copies(
    change: Callable[[np.ndarray], np.ndarray],
    originals: list[np.ndarray],
    training: TrainingImages,
    thresholds: CopyThresholds,
) -> None:
    for index, original in enumerate(originals):
        nearest = training.nearest(change(original))
        assert nearest.index == index
        assert is_copy(nearest, thresholds, masked=False)


def test_other_pictures_of_the_product_are_not_copies(training: TrainingImages, thresholds: CopyThresholds) -> None:
    others = plates(1000, 40, defective=True)
    flagged = sum(is_copy(training.nearest(image), thresholds, masked=False) for image in others)
    # The threshold lets one in a hundred through; three of forty would be less likely than 1 %.
    assert flagged <= 2


def test_a_part_painted_over_is_a_copy_only_where_it_was_taken_from_a_training_image(
    originals: list[np.ndarray], training: TrainingImages, thresholds: CopyThresholds
) -> None:
    parents = plates(2000, 5, defective=False)
    part = np.s_[60:124, 40:104]
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[76:108, 56:88] = 255
    for index, (parent, original) in enumerate(zip(parents, originals, strict=True)):
        pasted = parent.copy()
        pasted[part] = original[part]
        nearest = training.nearest(pasted, mask)
        assert nearest.index == index
        assert is_copy(nearest, thresholds, masked=True)
        assert not is_copy(training.nearest(parent, mask), thresholds, masked=True)


def test_thresholds_come_from_the_product_and_never_fall_too_low(training: TrainingImages) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8) for _ in range(MIN_HELD_OUT)]
    unlike = calibrate(training, noise)
    assert unlike is not None
    assert unlike == CopyThresholds(whole=MIN_WHOLE, window=MIN_WINDOW, held_out=MIN_HELD_OUT)
    alike = calibrate(training, [soft(image) for image in plates(3000, MIN_HELD_OUT, defective=False)])
    assert alike is not None
    assert MIN_WHOLE < alike.whole < 1


def test_too_few_pictures_calibrate_nothing(training: TrainingImages) -> None:
    assert calibrate(training, plates(100, MIN_HELD_OUT - 1, defective=False)) is None


def test_pictures_without_detail_are_no_copies(training: TrainingImages, thresholds: CopyThresholds) -> None:
    flat = np.full((HEIGHT, WIDTH, 3), 128, dtype=np.uint8)
    assert not is_copy(training.nearest(flat), thresholds, masked=False)
