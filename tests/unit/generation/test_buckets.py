"""Sizes that images train at."""

from __future__ import annotations

import math

import pytest

from flawsmith.generation.buckets import Placement, bucket_sizes, bucket_step, place, product_size
from flawsmith.generation.spec import MAX_SIDE


def test_the_papers_strips_train_at_832_x_256() -> None:
    assert place(600, 200, step=64, multiple=8, resolution=512) == Placement((832, 280), (832, 256))


def test_buckets_are_those_of_kohyas_scripts() -> None:
    """`make_bucket_resolutions((512, 512), min_size=256, max_size=1024, divisible=64)`, written out."""
    expected = {(512, 512)}
    for width in range(256, 1025, 64):
        height = min(1024, (512 * 512 // width) // 64 * 64)
        if height >= 256:
            expected |= {(height, width), (width, height)}
    assert set(bucket_sizes(512, 64)) == expected
    assert (1024, 256) in expected


@pytest.mark.parametrize("size", [(600, 200), (200, 600), (96, 80), (1250, 500), (512, 512), (31, 900), (3000, 700)])
@pytest.mark.parametrize("resolution", [None, 256, 512])
@pytest.mark.parametrize(("step", "multiple"), [(64, 8), (16, 4)])
def test_buckets_lie_within_the_scaled_image_whose_aspect_ratio_is_kept(
    size: tuple[int, int], resolution: int | None, step: int, multiple: int
) -> None:
    placed = place(*size, step=step, multiple=multiple, resolution=resolution)
    for side, bucket in zip(placed.scaled, placed.bucket, strict=True):
        assert side % multiple == 0
        assert bucket <= side
        assert bucket % step == 0 or bucket == side < step
    if min(placed.scaled) >= 4 * multiple and max(placed.scaled) < 2048:
        rounding = multiple / min(placed.scaled)
        assert math.isclose(placed.scaled[0] / placed.scaled[1], size[0] / size[1], rel_tol=rounding)
    if resolution is None and max(size) <= 2048:
        # No more is cropped away than a step.
        assert all(side - bucket < step for side, bucket in zip(placed.scaled, placed.bucket, strict=True))


@pytest.mark.parametrize("size", [(600, 200), (200, 600), (512, 512), (31, 900)])
@pytest.mark.parametrize("resolution", [32, 48, 100, 1536, MAX_SIDE])
@pytest.mark.parametrize(("step", "multiple"), [(64, 8), (512, 8), (16, 4), (64, 16)])
def test_every_legal_resolution_has_buckets(size: tuple[int, int], resolution: int, step: int, multiple: int) -> None:
    placed = place(*size, step=step, multiple=multiple, resolution=resolution)
    for side, bucket in zip(placed.scaled, placed.bucket, strict=True):
        assert resolution // 4 <= bucket <= side <= MAX_SIDE
        assert bucket % min(step, multiple) == 0
    assert placed.bucket[0] * placed.bucket[1] <= resolution**2


def test_the_step_suits_the_images_that_a_model_makes() -> None:
    assert bucket_step(512, 8) == 64  # as published
    assert bucket_step(1024, 8) == 64
    assert bucket_step(128, 4) == 16
    assert bucket_step(64, 4) == 8
    assert bucket_step(16, 4) == 4


def test_the_products_size_is_the_median_to_the_nearest_that_the_model_can_make() -> None:
    placed = [place(height, width, step=64, multiple=4, resolution=None) for height, width in
              ((600, 203), (598, 203), (601, 205))]  # fmt: skip
    assert product_size(placed, multiple=4) == (600, 204)
