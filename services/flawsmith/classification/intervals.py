"""How far a figure measured on few images may be from the truth."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from flawsmith.common.manifests import Manifest

OUTSIDE = 0.025
"""Chance to miss the truth on each side of a 95 % interval."""

BOOTSTRAPS = 1000


class Interval(Manifest):
    """A 95 % interval."""

    low: float
    high: float


def share_interval(successes: int, count: int) -> Interval | None:
    """Clopper-Pearson interval of a share (Clopper and Pearson 1934); None where nothing was counted."""
    if count == 0:
        return None
    low, high = share_bounds(successes, count, OUTSIDE)
    return Interval(low=low, high=high)


def bootstrap_interval(
    figure: Callable[[np.ndarray, np.ndarray], float], labels: np.ndarray, scores: np.ndarray
) -> Interval | None:
    """Percentile interval of `figure(labels, scores)` over 1000 resamplings of the images within each label.

    Within, so that the share of defects, on which precision depends, stays what it is. labels: 0/1, N. scores: N.
    None where there are fewer than two defects or no normals: resampling them says nothing. Of few images the interval
    is too narrow: what kinds of defects the sample lacks, no resampling shows.
    """
    positives, negatives = np.flatnonzero(labels), np.flatnonzero(labels == 0)
    if len(positives) < 2 or not len(negatives):
        return None
    generator = np.random.default_rng(0)
    values = []
    for _ in range(BOOTSTRAPS):
        drawn = np.concatenate([generator.choice(part, len(part)) for part in (positives, negatives)])
        values.append(figure(labels[drawn], scores[drawn]))
    return Interval(low=float(np.quantile(values, OUTSIDE)), high=float(np.quantile(values, 1.0 - OUTSIDE)))


def share_bounds(successes: int, count: int, outside: float) -> tuple[float, float]:
    """Clopper-Pearson bounds of a share, each missed with at most `outside`."""

    def bound(reached: bool) -> float:
        """Where P(X >= successes) (reached) or P(X <= successes) is `outside`, by bisection."""
        low, high = 0.0, 1.0
        for _ in range(60):
            share = (low + high) / 2
            tail = _tail(successes, count, share) if reached else 1.0 - _tail(successes + 1, count, share)
            if (tail < outside) == reached:
                low = share
            else:
                high = share
        return low

    return (0.0 if successes == 0 else bound(True)), (1.0 if successes == count else bound(False))


def _tail(successes: int, count: int, share: float) -> float:
    """P(X >= successes) of a binomial variable."""
    if successes > count:
        return 0.0
    found = np.arange(successes, count + 1)
    logs = np.array([math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1) for k in found])
    with np.errstate(divide="ignore", invalid="ignore"):
        logs += np.where(found > 0, found * np.log(share), 0.0) + np.where(
            count > found, (count - found) * np.log1p(-share), 0.0
        )
    return float(np.exp(logs).sum())
