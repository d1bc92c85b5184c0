"""Known defects pasted into normals while training."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from flawsmith.classification.fitting import TrainingSet
from flawsmith.classification.pasting import paste_defect
from flawsmith.classification.recipes import RECIPES

HEIGHT, WIDTH = 60, 40
HOME = np.array([100, 120, 140], np.uint8)
STEP = np.array([60, -50, 40])
"""By how much the defect differs from its surroundings, by channel."""


def flat(colour: np.ndarray | tuple[int, int, int] | int) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), colour, np.uint8)


def defective(rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
    image, mask = flat(HOME), np.zeros((HEIGHT, WIDTH), np.uint8)
    image[rows, columns] = HOME + STEP
    mask[rows, columns] = 255
    return image, mask


def inside(mask: np.ndarray) -> np.ndarray:
    """What the soft edge and resampling leave alone."""
    return cv2.erode(mask, np.ones((5, 5), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0


def outside(mask: np.ndarray) -> np.ndarray:
    return cv2.dilate(mask, np.ones((13, 13), np.uint8)) == 0


@pytest.mark.parametrize("seed", range(20))
def test_a_defect_differs_from_the_normal_as_it_did_at_home(seed: int) -> None:
    image, mask = defective(slice(20, 34), slice(12, 26))
    normal = flat((50, 180, 90))
    pasted, found = paste_defect(image, mask, normal, np.random.default_rng(seed))
    assert pasted.dtype == found.dtype == np.uint8
    assert pasted.shape == image.shape
    assert set(np.unique(found)) == {0, 255}
    assert (pasted[outside(found)] == normal[outside(found)]).all()
    difference = pasted[inside(found)].astype(int) - normal[inside(found)]
    if len(difference) == 0:  # hardly more than a corner is in the image
        return
    opacity = difference / STEP
    assert opacity.min() >= 0.55
    assert opacity.max() <= 1.05
    assert np.ptp(opacity, axis=0).max() < 0.05  # one opacity for all of it


def test_defects_come_to_all_places_in_several_sizes_and_strengths() -> None:
    image, mask = defective(slice(20, 34), slice(12, 26))
    generator = np.random.default_rng(0)
    covered, areas, strengths = np.zeros((HEIGHT, WIDTH), bool), [], []
    for _ in range(200):
        pasted, found = paste_defect(image, mask, flat(128), generator)
        covered |= found > 0
        areas.append(int((found > 0).sum()))
        strengths.append(int(pasted[..., 0].max()) - 128)
    assert covered.all()
    assert min(areas) > 0
    assert max(areas) > 1.3 * 14 * 14
    assert np.ptp(strengths) > 15


def test_a_defect_of_one_pixel_is_never_lost() -> None:
    image, mask = defective(slice(20, 21), slice(39, 40))
    for seed in range(100):
        assert paste_defect(image, mask, flat(0), np.random.default_rng(seed))[1].any()


def test_a_defect_without_surroundings_keeps_its_colour() -> None:
    image, mask = defective(slice(None), slice(None))
    pasted, found = paste_defect(image, mask, flat(0), np.random.default_rng(0))
    assert (pasted[inside(found)].max(axis=0) >= 0.55 * (HOME + STEP)).all()


def test_the_generator_decides() -> None:
    image, mask = defective(slice(20, 34), slice(12, 26))
    first, again, other = (paste_defect(image, mask, flat(30), np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[1], other[1])


def training_set() -> TrainingSet:
    """A bright defect with a mask, one without, and a darker and a dark normal."""
    known, mask = defective(slice(20, 34), slice(12, 26))
    return TrainingSet(np.stack([known, known, flat(40), flat(0)]), (0, 1), (2, 3), mask[None], {0: 0})


def test_a_share_of_the_defects_with_masks_is_pasted_into_normals() -> None:
    given = training_set().batch(np.array([0, 1, 2, 3] * 200), RECIPES["mixed"], np.random.default_rng(0))
    assert given.masks is not None
    assert given.has_mask is not None
    images, masks = given.images.numpy(), given.masks.numpy()
    # By what most of the image shows.
    surfaces = np.median(images[..., 0], axis=(1, 2))
    pasted = surfaces[0::4] != HOME[0]
    assert pasted.mean() == pytest.approx(RECIPES["mixed"].pasted, abs=0.1)
    assert set(surfaces[0::4][pasted]) == {0, 40}
    assert masks[0::4].any(axis=(1, 2)).all()
    for image, mask, surface in zip(images[0::4], masks[0::4], surfaces[0::4], strict=True):
        assert (image[outside(mask), 0] == surface).all()
    # A defect of unknown outline cannot be cut out, and normals stay normals.
    assert (surfaces[1::4] == HOME[0]).all()
    assert (images[2::4] == 40).all()
    assert not images[3::4].any()
    assert given.labels.tolist() == [1.0, 1.0, 0.0, 0.0] * 200
    assert given.has_mask.tolist() == [True, False, True, True] * 200


def test_a_recipe_that_pastes_nothing_shows_defects_where_they_are() -> None:
    recipe = replace(RECIPES["mixed"], pasted=0.0)
    given = training_set().batch(np.zeros(50, np.int64), recipe, np.random.default_rng(0))
    assert (np.median(given.images.numpy()[..., 0], axis=(1, 2)) == HOME[0]).all()
