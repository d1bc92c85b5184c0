"""Real defects pasted into normals while training."""

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest

from flawsmith.classification.fitting import TrainingSet
from flawsmith.classification.pasting import paste_defect
from flawsmith.classification.recipes import RECIPES, Batch

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
    assert opacity.min() >= 0.2
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


def training_set(**changes: Any) -> TrainingSet:
    """Two defects, of which the first has a mask, and two normals on other surfaces."""
    known, mask = defective(slice(20, 34), slice(12, 26))
    data = TrainingSet(
        np.stack([known, known, flat(40), flat(0)]), (0, 1), (2, 3), mask[None], {0: 0}, real=frozenset((0, 1))
    )
    return replace(data, **changes)


def drawn(data: TrainingSet, chosen: list[int], share: float = RECIPES["mixed"].pasted) -> tuple[np.ndarray, Batch]:
    """What most of each image shows, and the batch."""
    given = data.batch(np.array(chosen), replace(RECIPES["mixed"], pasted=share), np.random.default_rng(0))
    return np.median(given.images.numpy()[..., 0], axis=(1, 2)), given


def test_a_share_of_the_real_defects_with_masks_is_pasted_into_normals() -> None:
    surfaces, given = drawn(training_set(), [0, 1, 2, 3] * 200)
    assert given.masks is not None
    assert given.has_mask is not None
    images, masks = given.images.numpy(), given.masks.numpy()
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


def test_pasted_real_defects_take_the_place_of_synthetic_ones() -> None:
    real, mask = defective(slice(20, 34), slice(12, 26))
    synthetic, elsewhere = flat(200), np.zeros_like(mask)
    elsewhere[:3, :3] = 255
    data = training_set(
        images=np.stack([real, synthetic, flat(40), flat(0)]),
        masks=np.stack([mask, elsewhere]),
        mask_of={0: 0, 1: 1},
        real=frozenset((0,)),
    )
    surfaces, given = drawn(data, [1] * 200)
    assert given.masks is not None
    pasted = surfaces != 200
    assert pasted.mean() == pytest.approx(RECIPES["mixed"].pasted, abs=0.1)
    assert set(surfaces[pasted]) == {0, 40}
    assert (given.masks.numpy()[~pasted] > 0).sum(axis=(1, 2)).tolist() == [9] * int((~pasted).sum())
    strengths = given.images.numpy()[pasted, ..., 0].max(axis=(1, 2)) - surfaces[pasted]
    assert strengths.max() <= STEP[0] + 1  # the real one's contrast, not the synthetic one's surface


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"real": frozenset()}, id="none is real"),
        pytest.param({"mask_of": {}}, id="none has a mask"),
        pytest.param({"masks": None, "mask_of": {}}, id="no masks"),
        pytest.param({"real": frozenset((1,))}, id="the real one has no mask"),
    ],
)
def test_without_a_real_defect_with_a_mask_nothing_is_pasted(changes: dict[str, Any]) -> None:
    surfaces, _ = drawn(training_set(**changes), [0, 1] * 50, share=1.0)
    assert (surfaces == HOME[0]).all()


def test_a_real_defect_that_is_held_out_is_not_pasted() -> None:
    known, mask = defective(slice(20, 34), slice(12, 26))
    data = training_set(
        images=np.stack([known, flat(200), flat(40), flat(0)]),
        positives=(1,),
        masks=np.stack([mask, mask]),
        mask_of={0: 0, 1: 1},
        real=frozenset((0,)),
    )
    assert (drawn(data, [1] * 50, share=1.0)[0] == 200).all()


def test_a_recipe_that_pastes_nothing_shows_defects_where_they_are() -> None:
    assert (drawn(training_set(), [0] * 50, share=0.0)[0] == HOME[0]).all()
