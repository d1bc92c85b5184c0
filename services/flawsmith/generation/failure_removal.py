"""Which drawn defects are worth keeping: those that changed something, and that look like the product's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MIN_REFERENCES = 4
"""Real defects; of fewer, no share of 95 % can be told."""
PASSING = 0.95


@dataclass(frozen=True)
class Calibration:
    """What a defect must look like. references: feature vectors of real defects, K x D, of length 1. threshold:
    similarity to the nearest of them; None where there are too few to say. note: why, for people."""

    references: np.ndarray
    threshold: float | None
    note: str = ""

    def similarities(self, features: np.ndarray) -> np.ndarray:
        """Cosine similarity of each row, N x D, to the nearest reference, in [-1, 1]."""
        return np.asarray((features @ self.references.T).max(axis=1))


def calibrate(references: np.ndarray) -> Calibration:
    """A threshold that 95 % of the real defects pass when each is held out and compared with the others.

    references: K x D feature vectors, of length 1.
    """
    count = len(references)
    if count < MIN_REFERENCES:
        return Calibration(
            references,
            None,
            f"only whether images changed was tested: similarity to real defects needs {MIN_REFERENCES} of them, and "
            f"there are {count}",
        )
    pairs = references @ references.T
    np.fill_diagonal(pairs, -np.inf)
    return Calibration(references, float(np.quantile(pairs.max(axis=1), 1 - PASSING, method="lower")))


@dataclass(frozen=True)
class Verdict:
    """What was found of one drawing. change: see `masks.change`. similarity: None where it was not tested. failure:
    `unchanged`, `unlike`, or empty when it is kept."""

    change: float
    similarity: float | None
    failure: str


def judge(changes: Sequence[float], min_change: float, features: np.ndarray, calibration: Calibration) -> list[Verdict]:
    """One verdict a drawing. features: N x D, of length 1; not looked at where the calibration has no threshold."""
    threshold = calibration.threshold
    similar = [None] * len(changes) if threshold is None else calibration.similarities(features).tolist()
    verdicts = []
    for changed, similarity in zip(changes, similar, strict=True):
        failure = ""
        if changed < min_change:
            failure = "unchanged"
        elif similarity is not None and threshold is not None and similarity < threshold:
            failure = "unlike"
        verdicts.append(Verdict(changed, similarity, failure))
    return verdicts
