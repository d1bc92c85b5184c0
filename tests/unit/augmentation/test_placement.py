"""Where defects fall: zones, areas, counts, and the preview."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flawsmith.augmentation.augment import augment, method_named, parse_parameters
from flawsmith.augmentation.methods import METHODS
from flawsmith.augmentation.placement import Placement, allowed_area
from flawsmith.augmentation.planning import image_generator
from flawsmith.augmentation.preview import preview_placement
from flawsmith.common.errors import FailedPreconditionError, InvalidArgumentError

LEFT_HALF = [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]
MIDDLE = [[0.25, 0.25], [0.75, 0.25], [0.75, 0.75], [0.25, 0.75]]


def noisy(height: int = 120, width: int = 90) -> np.ndarray:
    return np.random.default_rng(4).integers(60, 200, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_zones_hold_for_every_method(method: str) -> None:
    values = {"region_of_interest": [LEFT_HALF], "forbidden_zones": [MIDDLE], "max_draws": 1000}
    parameters = parse_parameters(method_named(method), values)
    rows, columns = np.mgrid[:120, :90]
    for seed in range(25):
        mask = augment(noisy(), np.random.default_rng(seed), method=method, parameters=parameters).mask > 0
        assert columns[mask].max() <= 45
        inside = (columns > 23) & (columns < 66) & (rows > 30) & (rows < 89)
        assert not mask[inside].any()


def test_zones_are_shares_of_any_size() -> None:
    placement = Placement.model_validate({"region_of_interest": [MIDDLE]})
    for height, width in ((64, 64), (400, 100)):
        allowed = allowed_area(noisy(height, width), placement)
        assert allowed is not None
        assert allowed.mean() / 255 == pytest.approx(0.25, abs=0.02)
        assert allowed[height // 2, width // 2] == 255
    assert allowed_area(noisy(), Placement()) is None, "everywhere costs nothing"


def test_overlapping_zones_are_a_union() -> None:
    placement = Placement.model_validate({"region_of_interest": [LEFT_HALF, MIDDLE]})
    allowed = allowed_area(noisy(), placement)
    assert allowed is not None
    assert allowed[60, 30] == 255


@settings(max_examples=25, deadline=None)
@given(
    min_area=st.integers(1, 200), more=st.integers(50, 2000), max_regions=st.integers(1, 4), seed=st.integers(0, 2**32)
)
def test_areas_and_counts(min_area: int, more: int, max_regions: int, seed: int) -> None:
    parameters = parse_parameters(
        method_named("memseg"),
        {"min_area": min_area, "max_area": min_area + more, "max_regions": max_regions, "max_draws": 10_000},
    )
    made = augment(noisy(), np.random.default_rng(seed), parameters=parameters)
    regions = cv2.connectedComponents(made.mask, connectivity=8)[0] - 1
    assert 1 <= regions <= max_regions
    assert regions == made.drawn["regions"]
    assert min_area <= np.count_nonzero(made.mask) <= min_area + more


def test_at_least_so_many_regions() -> None:
    parameters = parse_parameters(method_named("memseg"), {"min_regions": 5})
    for seed in range(20):
        mask = augment(noisy(), np.random.default_rng(seed), parameters=parameters).mask
        assert cv2.connectedComponents(mask, connectivity=8)[0] - 1 >= 5


def test_kept_regions_are_a_random_choice() -> None:
    """Of many regions each place keeps its chance: the centre of what is kept does not lean to where labels begin."""
    parameters = parse_parameters(method_named("memseg"), {"max_regions": 1, "max_draws": 10_000})
    rows = []
    for seed in range(300):
        mask = augment(noisy(), np.random.default_rng(seed), parameters=parameters).mask
        rows.append(np.nonzero(mask)[0].mean() / 119)
    assert abs(np.mean(rows) - 0.5) < 5 * np.std(rows) / np.sqrt(len(rows))


def test_no_room_is_an_error_that_says_why() -> None:
    parameters = parse_parameters(
        method_named("memseg"),
        {"region_of_interest": [LEFT_HALF], "forbidden_zones": [[[0, 0], [1, 0], [1, 1], [0, 1]]]},
    )
    with pytest.raises(FailedPreconditionError) as caught:
        augment(noisy(), np.random.default_rng(0), parameters=parameters)
    assert caught.value.reason == "NO_ROOM_FOR_DEFECTS"
    assert "preview" in caught.value.message


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"region_of_interest": [[[0, 0], [1, 1]]]}, "region_of_interest"),
        ({"forbidden_zones": [[[0, 0], [2, 0], [1, 1]]]}, "forbidden_zones"),
        ({"min_area": 0}, "min_area"),
        ({"min_area": 50, "max_area": 20}, "min_area must not exceed max_area"),
        ({"min_regions": 3, "max_regions": 2}, "min_regions must not exceed max_regions"),
        ({"foreground": "wood"}, "foreground"),
        ({"opacity_min": 0.9, "opacity_max": 0.5}, "opacity_min must not exceed opacity_max"),
    ],
)
def test_bad_placements_are_named(values: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        parse_parameters(method_named("memseg"), values)
    assert caught.value.reason == "INVALID_PARAMETERS"
    assert field in caught.value.message


def test_a_preview_shows_what_a_batch_would_draw() -> None:
    image = noisy()
    parameters = parse_parameters(method_named("draem"), {"region_of_interest": [LEFT_HALF]})
    preview = preview_placement(image, method="draem", parameters=parameters, seed=7, count=4)
    assert preview.allowed.shape == (120, 90)
    assert set(np.unique(preview.allowed)) == {0, 255}
    assert len(preview.masks) == 4
    for index, mask in enumerate(preview.masks):
        made = augment(image, image_generator(7, index), method="draem", parameters=parameters)
        np.testing.assert_array_equal(mask, made.mask)
    dark = preview.allowed == 0
    np.testing.assert_array_equal(preview.overlay[dark], np.rint(image[dark] * 0.35).astype(np.uint8))
    lit = preview.allowed > 0
    outlined = (preview.overlay != image).any(axis=2) & lit
    assert 0 < outlined.sum() < sum(int((mask > 0).sum()) for mask in preview.masks)


@settings(max_examples=12, deadline=None)
@given(
    sides=st.sampled_from([(32, 8192), (8192, 32), (33, 4099), (1021, 1531), (2048, 33)]),
    method=st.sampled_from(sorted(METHODS)),
    seed=st.integers(0, 2**32),
)
def test_large_and_odd_sizes(sides: tuple[int, int], method: str, seed: int) -> None:
    image = np.random.default_rng(0).integers(60, 200, sides, dtype=np.uint8)
    made = augment(image, np.random.default_rng(seed), method=method)
    outside = made.mask == 0
    assert made.area >= 10
    np.testing.assert_array_equal(made.image[outside], image[outside])
