"""From scores to probabilities that mean what they say, and how far they are from it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from flawsmith.common.manifests import Manifest

TEMPERATURES = (0.05, 20.0)
RELIABILITY_BINS = 10


class Calibration(Manifest):
    """Probability = sigmoid(logit / temperature), for a line on which half of the parts are defective; for another
    share s add log(s / (1 - s)) to the logit. normals, defects: how many images it was measured on."""

    temperature: float
    normals: int
    defects: int

    def probability(self, logit: float) -> float:
        """Of a defect, 0 to 1."""
        return float(self.probabilities(np.asarray(logit)))

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Of defects, float64, 0 to 1. logits: any shape."""
        return sigmoid(np.asarray(logits, dtype=np.float64) / self.temperature)


@dataclass(frozen=True)
class ReliabilityBin:
    """Images whose probabilities are alike: their mean probability, the weighted share that is defective, how many."""

    probability: float
    defective: float
    images: int


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> Calibration | None:
    """Temperature scaling (Guo et al. 2017, section 4.2): the T in 0.05 to 20 of least cross-entropy.

    logits: N, of images that the network was not trained on. labels: 0/1, N. None unless both labels occur.
    Two changes, both for few defects among many normals. Each class weighs the same in total, as in the balanced
    batches of training, so that T does not answer for the share of defects. The targets are Platt's, (n+1)/(n+2) and
    1/(m+2) for n defects and m normals (Platt 1999, equation 13), without which a handful of separable scores gives a
    temperature of zero.
    """
    defects, normals = int(np.count_nonzero(labels)), int(np.count_nonzero(labels == 0))
    if not defects or not normals:
        return None
    values = np.asarray(logits, dtype=np.float64)
    targets = np.where(labels != 0, (defects + 1.0) / (defects + 2.0), 1.0 / (normals + 2.0))
    weights = class_weights(labels)

    def cross_entropy(log_temperature: float) -> float:
        scaled = values / math.exp(log_temperature)
        return float(np.sum(weights * (np.logaddexp(0.0, scaled) - targets * scaled)))

    # In 1/T the cross-entropy is convex, so it has one minimum in log T too.
    low, high = (math.log(bound) for bound in TEMPERATURES)
    golden = (math.sqrt(5.0) - 1.0) / 2.0
    while high - low > 1e-9:
        left, right = high - golden * (high - low), low + golden * (high - low)
        if cross_entropy(left) < cross_entropy(right):
            high = right
        else:
            low = left
    return Calibration(temperature=math.exp((low + high) / 2.0), normals=normals, defects=defects)


def reliability(labels: np.ndarray, probabilities: np.ndarray) -> tuple[float, tuple[ReliabilityBin, ...]]:
    """Expected calibration error (Guo et al. 2017, equation 3) over ten bins of equal width, and the bins that hold
    images, rising. labels: 0/1, N > 0. probabilities: N, of a defect.

    Each class weighs the same in total (as the probabilities assume); where only one occurs, each image does.
    """
    weights = class_weights(labels)
    chosen = np.minimum((probabilities * RELIABILITY_BINS).astype(int), RELIABILITY_BINS - 1)
    error, bins = 0.0, []
    for index in np.unique(chosen):
        inside = chosen == index
        weight = float(weights[inside].sum())
        probability = float(np.average(probabilities[inside], weights=weights[inside]))
        defective = float(np.average(labels[inside] != 0, weights=weights[inside]))
        error += weight * abs(probability - defective)
        bins.append(ReliabilityBin(probability, defective, int(inside.sum())))
    return error, tuple(bins)


def class_weights(labels: np.ndarray) -> np.ndarray:
    """Weights that sum to 1, alike within a class and, where both occur, half for each. labels: 0/1, N."""
    positive = labels != 0
    defects, normals = int(positive.sum()), int((~positive).sum())
    if not defects or not normals:
        return np.full(len(labels), 1.0 / len(labels))
    return np.where(positive, 0.5 / defects, 0.5 / normals)


def sigmoid(values: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)) without overflow."""
    return np.exp(-np.logaddexp(0.0, -np.asarray(values, dtype=np.float64)))
