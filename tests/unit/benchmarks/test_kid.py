"""KID's estimate and the bootstrap of its differences."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest

from benchmarks.kid import bootstrap_difference, bootstrap_kid, kid


def samples(seed: int, count: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, (count, 8))


def test_the_estimate_is_the_published_formula() -> None:
    real, generated = samples(0, 5), samples(1, 7, 0.4)

    def k(x: np.ndarray, y: np.ndarray) -> float:
        return float((np.dot(x, y) / 8 + 1) ** 3)

    expected = (
        sum(k(x, y) for x, y in permutations(real, 2)) / (5 * 4)
        + sum(k(x, y) for x, y in permutations(generated, 2)) / (7 * 6)
        - 2 * sum(k(x, y) for x, y in product(real, generated)) / (5 * 7)
    )
    assert kid(real, generated) == pytest.approx(expected)


def test_the_average_over_subsets_is_the_estimate_of_the_whole() -> None:
    real, generated, rng = samples(0, 12), samples(1, 20, 0.4), np.random.default_rng(2)
    subsets = [
        kid(real[rng.choice(12, 6, replace=False)], generated[rng.choice(20, 6, replace=False)]) for _ in range(4000)
    ]
    error = np.std(subsets) / np.sqrt(len(subsets))
    assert np.mean(subsets) == pytest.approx(kid(real, generated), abs=4 * error)


def test_it_is_not_biased_for_samples_of_one_distribution() -> None:
    values = [kid(samples(2 * seed, 10), samples(2 * seed + 1, 14)) for seed in range(400)]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values))


def test_resampling_adds_no_bias() -> None:
    # A picture drawn twice is no pair: with such pairs, resampled values would lie above the estimate.
    real, generated = samples(0, 16), samples(1, 30, 0.5)
    found = bootstrap_kid(real, generated, seed=0, draws=4000)
    assert found.estimate == kid(real, generated)
    assert found.low < found.estimate < found.high
    assert (found.low + found.high) / 2 == pytest.approx(found.estimate, abs=0.3 * (found.high - found.low))


def test_a_difference_is_clear_of_zero_when_the_samples_differ_and_not_otherwise() -> None:
    real, near, far = samples(0, 16), samples(1, 60, 0.1), samples(2, 60, 1.5)
    assert bootstrap_difference(real, near, far, seed=0).high < 0
    assert bootstrap_difference(real, far, near, seed=0).low > 0
    alike = bootstrap_difference(real, near, samples(3, 60, 0.1), seed=0)
    assert alike.low < 0 < alike.high


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ValueError, match="2 images are too few"):
        bootstrap_kid(samples(0, 2), samples(1, 5), seed=0)
