"""Perlin noise against its formula, written out pixel by pixel, and regions against OpenCV's rotation."""

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flawsmith.augmentation import kernels
from flawsmith.augmentation.perlin import NO_LIMIT, PerlinParameters, draw_noise, draw_region, threshold_byte


def reference(seed: int, height: int, width: int, cells_y: float, cells_x: float) -> np.ndarray:
    """Improved Perlin noise, one pixel at a time, in double precision."""
    shape = (math.ceil(cells_y) + 1, math.ceil(cells_x) + 1)
    steps = np.random.default_rng(seed).integers(0, 1024, size=shape, dtype=np.int16)
    angles = steps * (2 * math.pi / 1024)

    def fade(t: float) -> float:
        return 6 * t**5 - 15 * t**4 + 10 * t**3

    noise = np.empty((height, width))
    for row in range(height):
        for column in range(width):
            y, x = row * cells_y / height, column * cells_x / width
            top, left = int(y), int(x)
            v, u = y - top, x - left
            dots = {
                (dy, dx): math.sin(angles[top + dy, left + dx]) * (v - dy)
                + math.cos(angles[top + dy, left + dx]) * (u - dx)
                for dy in (0, 1)
                for dx in (0, 1)
            }
            upper = dots[0, 0] * (1 - fade(u)) + dots[0, 1] * fade(u)
            lower = dots[1, 0] * (1 - fade(u)) + dots[1, 1] * fade(u)
            noise[row, column] = math.sqrt(2) * (upper * (1 - fade(v)) + lower * fade(v))
    return noise


@pytest.mark.parametrize("size", [(16, 16), (37, 23), (33, 50)])
@pytest.mark.parametrize("cells", [(1, 1), (2, 8), (16, 4), (2.34375, 12.5)])
def test_equals_the_formula(size: tuple[int, int], cells: tuple[float, float]) -> None:
    noise = draw_noise(np.random.default_rng(5), *size, *cells)
    expected = reference(5, *size, *cells)
    field, tiles = noise.as_bytes(100.0, 127.5)
    # Bytes round down; a little is left for single precision and gradients in steps of 2**-15.
    assert np.abs(field - (expected * 100.0 + 127.0)).max() <= 0.5 + 0.02
    low, high = noise.extent()
    assert low == pytest.approx(expected.min(), abs=2e-4)
    assert high == pytest.approx(expected.max(), abs=2e-4)
    for row, column in np.ndindex(*tiles.shape):
        tile = field[row * kernels.TILE : (row + 1) * kernels.TILE, column * kernels.TILE : (column + 1) * kernels.TILE]
        assert tiles[row, column] == tile.max()


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(32, 300),
    width=st.integers(32, 300),
    y=st.integers(0, 6),
    x=st.integers(0, 6),
    seed=st.integers(0),
)
def test_any_size_and_scale_stays_within_its_bounds(height: int, width: int, y: int, x: int, seed: int) -> None:
    low, high = draw_noise(np.random.default_rng(seed), height, width, 2**y, 2**x).extent()
    assert -1.0 - 1e-5 <= low <= high <= 1.0 + 1e-5


@pytest.mark.parametrize("scale_y", [1, 2, 4, 8, 16, 32])
@pytest.mark.parametrize("scale_x", [1, 2, 4, 8, 16, 32])
def test_600_x_200_where_the_common_code_crashes(scale_y: int, scale_x: int) -> None:
    field, _ = draw_noise(np.random.default_rng(0), 600, 200, scale_y, scale_x).as_bytes(100.0, 127.5)
    assert field.shape == (600, 200)
    assert field.std() > 5


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.95])
def test_bytes_from_the_threshold_on_are_noise_above_it(threshold: float) -> None:
    byte, offset = threshold_byte(threshold)
    field, _ = draw_noise(np.random.default_rng(2), 60, 44, 4, 4).as_bytes(170.0, offset)
    expected = reference(2, 60, 44, 4, 4)
    clear = np.abs(expected - threshold) > 1e-3  # single precision decides the rest
    np.testing.assert_array_equal((field >= byte)[clear], (expected > threshold)[clear])


@pytest.mark.parametrize("degrees", [0.0, 33.0, -78.0, 90.0, 180.0])
@pytest.mark.parametrize("size", [(64, 64), (97, 45), (40, 130)])
def test_affine_turns_as_opencv_does(degrees: float, size: tuple[int, int]) -> None:
    height, width = size
    image = cv2.GaussianBlur(np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8), (5, 5), 0)
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    got = kernels.affine(image, cosine, -sine, sine, cosine, 0)
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    expected = cv2.warpAffine(image.astype(np.float32), matrix, (width, height))
    inside = cv2.warpAffine(np.ones(size, np.float32), matrix, (width, height)) > 0.999
    inside = cv2.erode(inside.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0) > 0
    assert inside.sum() > 0.2 * image.size
    # OpenCV knows 1/32 of a pixel, the kernel 1/256.
    assert np.abs(got.astype(float) - expected)[inside].max() <= 8
    assert np.abs(got.astype(float) - expected)[inside].mean() < 0.7
    outside = cv2.warpAffine(np.ones(size, np.float32), matrix, (width, height)) == 0
    assert not got[cv2.erode(outside.astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=1) > 0].any()


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(32, 200),
    width=st.integers(32, 200),
    exponents=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    degrees=st.floats(-180, 180),
    seed=st.integers(0),
)
def test_skipping_tiles_changes_nothing(height, width, exponents, degrees, seed) -> None:
    rng = np.random.default_rng(seed)
    byte, offset = threshold_byte(0.5)
    field, tiles = draw_noise(rng, height, width, 2 ** exponents[0], 2 ** exponents[1]).as_bytes(170.0, offset)
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    expected = kernels.affine(field, cosine, -sine, sine, cosine, 0) >= byte
    mask, area = kernels.turned_region(field, tiles, cosine, sine, byte, NO_LIMIT)
    np.testing.assert_array_equal(mask > 0, expected)
    assert area == expected.sum()
    allowed = (rng.random((height, width)) < 0.5).astype(np.uint8) * np.uint8(255)
    limited, area = kernels.turned_region(field, tiles, cosine, sine, byte, allowed)
    np.testing.assert_array_equal(limited > 0, expected & (allowed > 0))
    assert area == np.count_nonzero(limited)


def definition(rng: np.random.Generator, size: int) -> np.ndarray:
    """A region as MemSeg defines it: 2**randint(0, 6) cells an axis, turned by U(-90, 90), noise above 0.5.

    Continuous gradients, double precision, OpenCV's rotation: nothing shared with the code under test.
    """
    cells = 2 ** rng.integers(0, 6, size=2)
    angles = rng.uniform(0, 2 * math.pi, size=cells + 1)
    ys, xs = (np.arange(size) * count / size for count in cells)
    top, left = ys.astype(int), xs.astype(int)
    v, u = (ys - top)[:, None], (xs - left)[None, :]

    def dot(dy: int, dx: int) -> np.ndarray:
        angle = angles[np.ix_(top + dy, left + dx)]
        return np.sin(angle) * (v - dy) + np.cos(angle) * (u - dx)

    fade_v, fade_u = (6 * t**5 - 15 * t**4 + 10 * t**3 for t in (v, u))
    upper = dot(0, 0) * (1 - fade_u) + dot(0, 1) * fade_u
    lower = dot(1, 0) * (1 - fade_u) + dot(1, 1) * fade_u
    noise = math.sqrt(2) * (upper * (1 - fade_v) + lower * fade_v)
    matrix = cv2.getRotationMatrix2D(((size - 1) / 2, (size - 1) / 2), rng.uniform(-90, 90), 1.0)
    return cv2.warpAffine(noise, matrix, (size, size)) > 0.5


def test_area_and_regions_follow_the_definition() -> None:
    """Share of empty masks, quantiles of the area and of the number of regions, 2,500 draws each."""
    count, size = 2500, 64
    samples: dict[str, list[tuple[float, int]]] = {"ours": [], "definition": []}
    for index in range(count):
        mask, area, _ = draw_region(np.random.default_rng([1, index]), size, size, PerlinParameters(), None)
        samples["ours"].append((area / size**2, cv2.connectedComponents(mask, connectivity=8)[0] - 1))
        region = definition(np.random.default_rng([2, index]), size).astype(np.uint8)
        samples["definition"].append((region.mean(), cv2.connectedComponents(region, connectivity=8)[0] - 1))
    ours, defined = (np.array(samples[name]) for name in ("ours", "definition"))
    for values in (0, 1):
        # Two-sample Kolmogorov-Smirnov distance; 1.95 sqrt(2 / n) is passed by chance once in a thousand times.
        grid = np.unique(np.concatenate([ours[:, values], defined[:, values]]))
        ranks = [np.searchsorted(np.sort(sample[:, values]), grid, side="right") / count for sample in (ours, defined)]
        assert np.abs(ranks[0] - ranks[1]).max() < 1.95 * math.sqrt(2 / count)
    empty_ours, empty_defined = (ours[:, 0] == 0).mean(), (defined[:, 0] == 0).mean()
    assert 0.02 < empty_defined < 0.15  # what the public code passes on with a positive label
    assert abs(empty_ours - empty_defined) < 0.03
