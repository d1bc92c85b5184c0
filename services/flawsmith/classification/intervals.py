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
            tail = (
                chance_of_at_least(successes, count, share)
                if reached
                else 1.0 - chance_of_at_least(successes + 1, count, share)
            )
            if (tail < outside) == reached:
                low = share
            else:
                high = share
        return low

    return (0.0 if successes == 0 else bound(True)), (1.0 if successes == count else bound(False))


def chance_of_at_least(successes: int, count: int, share: float) -> float:
    """P(X >= successes) of a binomial variable of `count` trials, each a success with probability `share`, 0 to 1."""
    if successes > count:
        return 0.0
    found = np.arange(successes, count + 1)
    # In logarithms, for binomial coefficients soon exceed any float: C(n, k + 1) is C(n, k) * (n - k) / (k + 1).
    first = math.lgamma(count + 1) - math.lgamma(successes + 1) - math.lgamma(count - successes + 1)
    logs = first + np.concatenate([[0.0], np.cumsum(np.log((count - found[:-1]) / found[1:]))])
    with np.errstate(divide="ignore", invalid="ignore"):
        logs += np.where(found > 0, found * np.log(share), 0.0) + np.where(
            count > found, (count - found) * np.log1p(-share), 0.0
        )
    return float(np.exp(logs).sum())
