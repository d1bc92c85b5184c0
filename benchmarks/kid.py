"""Kernel inception distance (Binkowski et al., 2018) of small samples, and bootstrapped differences of two."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    """An estimate with the bounds of its interval."""

    estimate: float
    low: float
    high: float


def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(x y / d + 1)^3 for each pair: N x d and M x d give N x M."""
    return np.asarray((x @ y.T / x.shape[1] + 1) ** 3)


def kid(real: np.ndarray, generated: np.ndarray) -> float:
    """The unbiased estimate of the squared maximum mean discrepancy of features N x d and M x d; may be negative.

    The paper averages it over random subsets, for large samples. Over all subsets, of any size, that average is the
    estimate of the whole samples, which small ones afford.
    """
    within_real, across, within_generated = _terms(
        real, generated, np.ones((1, len(real))), np.ones((1, len(generated)))
    )
    return float((within_real - 2 * across + within_generated)[0])


def bootstrap_kid(
    real: np.ndarray, generated: np.ndarray, *, seed: int, draws: int = 5000, level: float = 0.95
) -> Interval:
    """KID with its percentile interval over resampled images of both sides."""
    rng = np.random.default_rng(seed)
    terms = _terms(real, generated, _resample(rng, len(real), draws), _resample(rng, len(generated), draws))
    values = terms[0] - 2 * terms[1] + terms[2]
    return _interval(kid(real, generated), values, level)


def bootstrap_difference(
    real: np.ndarray, first: np.ndarray, second: np.ndarray, *, seed: int, draws: int = 5000, level: float = 0.95
) -> Interval:
    """KID of `first` minus KID of `second`, both against the same resampled real images; below 0: `first` is closer."""
    rng = np.random.default_rng(seed)
    chosen = _resample(rng, len(real), draws)
    differences = np.zeros(draws)
    for sign, sample in ((1, first), (-1, second)):
        _, across, within = _terms(real, sample, chosen, _resample(rng, len(sample), draws))
        differences += sign * (within - 2 * across)
    return _interval(kid(real, first) - kid(real, second), differences, level)


def _resample(rng: np.random.Generator, count: int, draws: int) -> np.ndarray:
    """How often each of `count` images is drawn, `draws` x `count`; two different ones at least."""
    if count < 3:
        raise ValueError(f"{count} images are too few to resample; give three or more")
    drawn = rng.multinomial(count, np.full(count, 1 / count), 2 * draws).astype(np.float64)
    return np.asarray(drawn[(drawn > 0).sum(axis=1) > 1][:draws])


def _terms(
    real: np.ndarray, generated: np.ndarray, real_weights: np.ndarray, generated_weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean kernel within the real images, across, and within the generated ones, one a row of weights."""
    across = ((real_weights @ kernel(real, generated)) * generated_weights).sum(axis=1)
    across /= real_weights.sum(axis=1) * generated_weights.sum(axis=1)
    return _within(real, real_weights), across, _within(generated, generated_weights)


def _within(features: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean kernel of pairs of different images: an image drawn twice makes no pair with itself, which would be bias."""
    others = kernel(features, features)
    np.fill_diagonal(others, 0)
    total = ((weights @ others) * weights).sum(axis=1)
    return np.asarray(total / (weights.sum(axis=1) ** 2 - (weights**2).sum(axis=1)))


def _interval(estimate: float, values: np.ndarray, level: float) -> Interval:
    tail = (1 - level) / 2
    return Interval(estimate, float(np.quantile(values, tail)), float(np.quantile(values, 1 - tail)))
