"""Perlin noise against its formula, written out pixel by pixel."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flawsmith.augmentation.perlin import perlin_noise


def reference(seed: int, height: int, width: int, scale_y: int, scale_x: int) -> np.ndarray:
    """Improved Perlin noise, one pixel at a time, in double precision."""
    angles = np.random.default_rng(seed).uniform(0, 2 * math.pi, size=(scale_y + 1) * (scale_x + 1))
    angles = angles.reshape(scale_y + 1, scale_x + 1)

    def fade(t: float) -> float:
        return 6 * t**5 - 15 * t**4 + 10 * t**3

    noise = np.empty((height, width))
    for row in range(height):
        for column in range(width):
            y, x = row * scale_y / height, column * scale_x / width
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
@pytest.mark.parametrize("scale", [(1, 1), (2, 8), (16, 4)])
def test_equals_the_formula(size: tuple[int, int], scale: tuple[int, int]) -> None:
    got = perlin_noise(np.random.default_rng(5), *size, *scale)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, reference(5, *size, *scale), atol=2e-6)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 300), width=st.integers(1, 300), y=st.integers(0, 6), x=st.integers(0, 6), seed=st.integers(0)
)
def test_any_size_and_scale(height: int, width: int, y: int, x: int, seed: int) -> None:
    noise = perlin_noise(np.random.default_rng(seed), height, width, 2**y, 2**x)
    assert noise.shape == (height, width)
    assert np.isfinite(noise).all()
    assert np.abs(noise).max() <= 1.0 + 1e-5


@pytest.mark.parametrize("scale_y", [1, 2, 4, 8, 16, 32])
@pytest.mark.parametrize("scale_x", [1, 2, 4, 8, 16, 32])
def test_600_x_200_where_the_common_code_crashes(scale_y: int, scale_x: int) -> None:
    assert perlin_noise(np.random.default_rng(0), 600, 200, scale_y, scale_x).shape == (600, 200)
