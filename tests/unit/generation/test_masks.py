"""Where defects go, and that nothing else changes."""

from __future__ import annotations

import dataclasses
from collections import Counter

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flawsmith.common.errors import FailedPreconditionError, InvalidArgumentError
from flawsmith.drawing import DEFECTS
from flawsmith.generation.masks import (
    DSAII_AREAS,
    FINE_AREAS,
    MAX_ZOOM,
    BankMask,
    Crop,
    angle_range,
    area_range,
    change,
    check_mask,
    crop_around,
    drawn_masks,
    drawn_size,
    object_region,
    paste,
    place,
)


def bar(height: int, width: int, top: int, left: int, rows: int, columns: int) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[top : top + rows, left : left + columns] = 255
    return mask


@st.composite
def pasted(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, Crop, int]:
    """A parent, what was drawn, a mask of any form, the crop around it, and a feather."""
    height, width = draw(st.integers(8, 40)), draw(st.integers(8, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    mask = np.where(rng.random((height, width)) < draw(st.floats(0.01, 0.9)), np.uint8(255), np.uint8(0))
    mask[rng.integers(height), rng.integers(width)] = 255
    crop = crop_around(mask, draw(st.integers(0, 5)), draw(st.sampled_from([8, 32, 128])))
    sides = draw(st.tuples(st.integers(4, 64), st.integers(4, 64)))
    parent = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return parent, rng.integers(0, 256, (*sides, 3), dtype=np.uint8), mask, crop, draw(st.integers(0, 9))


@settings(max_examples=200, deadline=None)
@given(pasted())
def test_pixels_outside_the_mask_stay_bit_for_bit(
    case: tuple[np.ndarray, np.ndarray, np.ndarray, Crop, int],
) -> None:
    parent, drawn, mask, crop, feather = case
    before = parent.copy()
    painted = paste(parent, drawn, mask, crop, feather)
    assert painted.dtype == np.uint8
    assert np.array_equal(painted[mask == 0], before[mask == 0])
    assert np.array_equal(parent, before)


def test_defects_fade_in_from_the_edge_inward() -> None:
    parent, drawn = np.full((40, 40, 3), 100, np.uint8), np.full((20, 20, 3), 100, np.uint8)
    drawn[6:14, 6:14] = 200
    mask = bar(40, 40, 16, 16, 8, 8)
    painted = paste(parent, drawn, mask, Crop(10, 10, 20, 20), feather=3)
    middle_row = painted[20, 16:24, 0].astype(int)
    assert middle_row[0] == 125  # a quarter of the way, one pixel inside
    assert middle_row[3] == middle_row[4] == 200
    assert (np.diff(middle_row[:4]) > 0).all()
    # A line that is narrower than the feather is there all the same.
    thin = bar(40, 40, 20, 16, 1, 8)
    assert paste(parent, drawn, thin, Crop(10, 10, 20, 20), feather=3)[20, 20, 0] == 200


def test_colours_that_the_model_shifted_everywhere_are_shifted_back() -> None:
    rng = np.random.default_rng(1)
    parent = rng.integers(90, 110, (40, 40, 3), dtype=np.uint8)
    mask = bar(40, 40, 16, 16, 8, 8)
    shifted = parent[10:30, 10:30] + np.array([30, 10, 0], np.uint8)
    assert np.array_equal(paste(parent, shifted, mask, Crop(10, 10, 20, 20), 0), parent)


SCRATCH = BankMask(bar(96, 64, 40, 20, 4, 30), "scratch", "a" * 64)
BLOB = BankMask(bar(96, 64, 20, 20, 12, 14), "stain", "b" * 64)


def test_masks_land_in_the_range_and_on_the_object() -> None:
    region = np.zeros((96, 64), np.uint8)
    region[10:80, 5:50] = 255
    rng, areas = np.random.default_rng(4), (0.01, 0.05)
    placed = [place([SCRATCH, BLOB], region, "object", {"scratch": areas, "stain": areas}, rng) for _ in range(300)]
    for item in placed:
        assert areas[0] <= np.count_nonzero(item.mask) / region.size <= areas[1]
        assert not item.mask[region == 0].any()
        assert set(np.unique(item.mask)) == {0, 255}
        assert 0.1 <= item.transform.scale <= 2.0
        assert abs(item.transform.shear) <= 10
        assert max(map(abs, item.transform.translate)) <= 0.5
        assert 1 <= item.transform.tries <= 1000
    angles = np.array([item.transform.angle for item in placed])
    # Uniform over the circle: each quarter holds about 75 of 300, give or take four standard deviations.
    assert all(45 < np.count_nonzero((angles // 90) == quarter) < 105 for quarter in range(4))
    for flips in ([item.transform.flip_horizontal for item in placed], [i.transform.flip_vertical for i in placed]):
        assert 110 < sum(flips) < 190
    assert {item.source.defect_type for item in placed} == {"scratch", "stain"}
    # They are everywhere, not in one corner only.
    heat = np.sum([item.mask > 0 for item in placed], axis=0)
    assert np.count_nonzero(heat) > 0.8 * np.count_nonzero(region)


def test_translations_on_textures_are_a_tenth() -> None:
    rng, region = np.random.default_rng(4), np.full((96, 64), 255, np.uint8)
    placed = [place([BLOB], region, "texture", {"stain": (0.01, 0.05)}, rng) for _ in range(50)]
    reach = max(max(map(abs, item.transform.translate)) for item in placed)
    assert 0.08 < reach <= 0.1


def test_the_same_seed_places_the_same_mask() -> None:
    region = np.full((96, 64), 255, np.uint8)
    areas = {"scratch": (0.005, 0.05)}
    one, two = (place([SCRATCH], region, "texture", areas, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(one.mask, two.mask)
    assert one.transform == two.transform


def test_a_transform_keeps_area_times_the_square_of_its_scale() -> None:
    # Wholly inside for all angles, so that nothing is cut off; shears keep areas.
    blob, region = BankMask(bar(200, 200, 90, 90, 20, 20), "", "c" * 64), np.full((200, 200), 255, np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(50):
        placed = place([blob], region, "texture", {"": (1e-4, 0.9)}, rng)
        expected = 400 * placed.transform.scale**2
        assert abs(np.count_nonzero(placed.mask) - expected) < 0.1 * expected + 4 * np.sqrt(expected)


def test_masks_of_other_images_keep_their_form() -> None:
    square = BankMask(bar(100, 100, 45, 45, 10, 10), "", "d" * 64)
    rng, region = np.random.default_rng(2), np.full((300, 75), 255, np.uint8)
    for _ in range(20):
        placed = place([square], region, "texture", {"": (0.005, 0.04)}, rng)
        _, (height, width), _ = _rectangle(placed.mask)
        assert max(height, width) < 1.7 * min(height, width)  # shear stretches a little, a strip would four times


def _rectangle(mask: np.ndarray) -> tuple[tuple[float, float], tuple[float, float], float]:
    import cv2

    rectangle: tuple[tuple[float, float], tuple[float, float], float] = cv2.minAreaRect(
        np.argwhere(mask)[:, ::-1].astype(np.float32)
    )
    return rectangle


def test_what_cannot_be_placed_is_said_with_what_to_do() -> None:
    with pytest.raises(FailedPreconditionError, match="1000 tries; widen min_area and max_area") as caught:
        place([BLOB], np.full((96, 64), 255, np.uint8), "texture", {"stain": (0.9, 0.95)}, np.random.default_rng(0))
    assert caught.value.reason == "NO_PLACE"
    areas = {"scratch": (0.001, 0.02), "stain": (0.01, 0.05)}
    with pytest.raises(FailedPreconditionError, match=r"covers 0\.100% to 2\.000% or 1\.000% to 5\.000% of the"):
        place([SCRATCH, BLOB], np.zeros((96, 64), np.uint8), "object", areas, np.random.default_rng(0))


@pytest.mark.parametrize(("value", "reason"), [(0, "EMPTY_MASK"), (255, "FULL_MASK")])
def test_masks_that_cover_everything_or_nothing_are_refused_by_name(value: int, reason: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"train/7\.png") as caught:
        check_mask(np.full((8, 8), value, np.uint8), "train/7.png")
    assert caught.value.reason == reason
    check_mask(SCRATCH.mask, "train/8.png")


def test_the_range_is_what_the_products_own_masks_show() -> None:
    areas = np.linspace(0.002, 0.02, 19)
    bank = [BankMask(bar(100, 100, 0, 0, 1, 1), "", "e" * 64) for _ in areas]
    for entry, area in zip(bank, areas, strict=True):
        entry.mask.ravel()[: round(area * 10_000)] = 255
    low, high = area_range(bank, "texture")
    assert low == pytest.approx(np.percentile([entry.area for entry in bank], 5))
    assert high == pytest.approx(np.percentile([entry.area for entry in bank], 95))
    # One mask alone still leaves room: a factor of two about its own size.
    low, high = area_range(bank[:1], "texture")
    assert high / low == pytest.approx(2)
    assert low * high == pytest.approx(bank[0].area ** 2)
    drawn = drawn_masks(3)
    assert area_range(drawn, "object") == DSAII_AREAS["object"] == (0.01, 0.05)
    assert area_range(drawn, "texture") == (0.05, 0.10)


def line(degrees: float, width: int = 5) -> BankMask:
    """A line through the middle of a square."""
    mask = np.zeros((200, 200), np.uint8)
    reach = 80 * np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])
    ends = [tuple(np.rint(100 + sign * reach).astype(int).tolist()) for sign in (-1, 1)]
    cv2.line(mask, ends[0], ends[1], 255, width)
    return BankMask(mask, "crack", origin="0" * 64)


def test_lines_of_the_product_are_turned_as_far_as_they_lie_apart() -> None:
    lines = [line(170), line(3), line(-8), line(12)]  # across the end of the scale: 170 and 12 are 22 degrees apart
    assert angle_range(lines) == pytest.approx(22, abs=1.5)
    placed = [
        place(lines, np.full((200, 200), 255, np.uint8), "texture", {"crack": (0.001, 0.2)},
              np.random.default_rng(seed), {"crack": angle_range(lines)})
        for seed in range(60)
    ]  # fmt: skip
    angles = (np.array([item.transform.angle for item in placed]) + 180) % 360 - 180
    assert np.abs(angles).max() <= 23.5
    assert angles.min() < -10
    assert angles.max() > 10


@pytest.mark.parametrize(
    ("bank", "degrees"),
    [
        ([line(0), line(1), line(2)], 10),  # some freedom is left
        ([line(0), line(90), line(45)], 90),
        ([line(0), line(5)], 180),  # too few to tell
        ([line(0), line(5), line(3, width=120)], 180),  # a patch has no direction
        ([line(0), line(20), line(5), *[line(90, width=120)] * 2], 20),  # among lines it says nothing
        ([line(0), line(20), line(5), *[line(90, width=120)] * 4], 180),
        ([dataclasses.replace(line(0), origin="")] * 3, 180),  # drawn: not the product's
    ],
)
def test_masks_are_turned_any_way_where_the_product_shows_none(bank: list[BankMask], degrees: float) -> None:
    assert angle_range(bank) == pytest.approx(degrees, abs=1)


def test_masks_are_drawn_of_every_kind_or_of_those_wanted() -> None:
    assert {mask.defect_type for mask in drawn_masks(3)} == set(DEFECTS) - {"none"}
    chosen = drawn_masks(3, ["hole", "scratch"])
    assert {mask.defect_type for mask in chosen} == {"hole", "scratch"}
    assert all(mask.mask.any() and not mask.mask.all() and not mask.origin for mask in chosen)
    with pytest.raises(InvalidArgumentError, match=r"moth.*known are scratch") as caught:
        drawn_masks(3, ["moth"])
    assert caught.value.reason == "UNKNOWN_DEFECT_TYPE"


@pytest.mark.parametrize(("direction", "degrees"), [("horizontal", 0), ("diagonal", 45), ("vertical", 90)])
def test_lines_are_drawn_in_the_direction_wanted(direction: str, degrees: float) -> None:
    boxes = [cv2.boundingRect(mask.mask) for mask in drawn_masks(3, ["scratch"], direction)]
    # A word covers 22.5 degrees to either side of it; some scratches are several beside each other.
    assert np.median([np.degrees(np.arctan2(box[3], box[2])) for box in boxes]) == pytest.approx(degrees, abs=22.5)
    holes = [drawn_masks(3, ["hole"], word) for word in ("", direction)]
    assert all(np.array_equal(one.mask, other.mask) for one, other in zip(*holes, strict=True))


@pytest.mark.parametrize("foreground", ["object", "texture"])
@pytest.mark.parametrize("kind", [kind for kind in DEFECTS if kind != "none"])
def test_drawn_masks_of_each_kind_fit_its_range(foreground: str, kind: str) -> None:
    rng, region = np.random.default_rng(0), np.full((200, 160), 255, np.uint8)
    low, high = FINE_AREAS.get(kind, DSAII_AREAS[foreground])
    for seed in range(10):
        placed = place(drawn_masks(seed, [kind]), region, foreground, {kind: (low, high)}, rng)
        assert low <= np.count_nonzero(placed.mask) / region.size <= high


def test_every_kind_has_its_own_range_and_none_crowds_out_the_rest() -> None:
    rng, region = np.random.default_rng(0), np.full((100, 80), 255, np.uint8)
    bank = drawn_masks(1)
    areas = {mask.defect_type: FINE_AREAS.get(mask.defect_type, DSAII_AREAS["texture"]) for mask in bank}
    placed = [place(bank, region, "texture", areas, rng) for _ in range(350)]
    for item in placed:
        low, high = areas[item.source.defect_type]
        assert low <= np.count_nonzero(item.mask) / region.size <= high
    counts = Counter(item.source.defect_type for item in placed)
    # 50 each were they equally likely. One in a try finds place for 2 of 3 cracks, but for 1 of 9 stains.
    assert min(counts[kind] for kind in areas) > 25


def test_the_object_is_the_largest_region() -> None:
    foreground = bar(50, 50, 2, 2, 5, 5) | bar(50, 50, 20, 20, 20, 15)
    assert np.array_equal(object_region(foreground), bar(50, 50, 20, 20, 20, 15))
    assert not object_region(np.zeros((5, 5), np.uint8)).any()


def test_small_defects_are_enlarged_for_the_model_but_not_to_a_blur() -> None:
    speck = bar(400, 300, 100, 100, 3, 3)
    crop = crop_around(speck, 8, 128)
    assert (crop.height, crop.width) == (128 // MAX_ZOOM, 128 // MAX_ZOOM)
    assert np.count_nonzero(crop.of(speck)) == 9
    assert drawn_size(crop, 128, 4) == (128, 128)
    large = crop_around(bar(400, 300, 100, 50, 200, 10), 8, 128)
    assert (large.height, large.width) == (216, 216)
    # A strip is narrower than the square: the crop is too, and is drawn so.
    strip = crop_around(bar(500, 100, 100, 40, 180, 10), 10, 128)
    assert (strip.height, strip.width, strip.left) == (200, 100, 0)
    assert drawn_size(strip, 128, 8) == (128, 64)
    corner = crop_around(bar(400, 300, 398, 298, 2, 2), 8, 128)
    assert (corner.top + corner.height, corner.left + corner.width) == (400, 300)


def test_change_is_what_differs_within_the_mask() -> None:
    rng = np.random.default_rng(0)
    parent = np.full((60, 60, 3), 128, np.uint8)
    mask = bar(60, 60, 20, 20, 20, 20)
    assert change(parent, parent, mask) == 0
    darker = parent.copy()
    darker[mask > 0] -= 40
    assert 30 < change(parent, darker, mask) <= 40
    # The same surface with other grain is next to no change, however coarse; a defect in it is one.
    coarse = [
        np.clip(parent + 60 * cv2.GaussianBlur(rng.normal(0, 1, parent.shape), (0, 0), 1.5), 0, 255).astype(np.uint8)
        for _ in range(2)
    ]
    assert np.abs(coarse[0][mask > 0].astype(float) - coarse[1][mask > 0]).mean() > 8
    assert change(*coarse, mask) < 4  # the default of min_change
    cracked = coarse[1].copy()
    cracked[mask > 0] -= 40
    assert change(coarse[0], cracked, mask) > 20
    # An edge of the product through the mask is no grain.
    parent[:, 30:] = 30
    cracked = parent.copy()
    cracked[mask > 0] += 40
    assert change(parent, cracked, mask) > 30
