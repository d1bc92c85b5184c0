"""Figures of merit of a binary defect score. labels: 1 = defect, 0 = normal; a score at or above a threshold is
called defective."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Curve:
    """A precision-recall curve: one point a distinct score, thresholds ascending, so recall never rises.

    precision, recall, thresholds: float64, K. The point (precision 1, recall 0) that closes the curve has no
    threshold and is not among them.
    """

    precision: np.ndarray
    recall: np.ndarray
    thresholds: np.ndarray


@dataclass(frozen=True)
class Confusion:
    """Counts at a threshold, and their ratios. A ratio whose denominator is zero is 0 (scikit-learn's default)."""

    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int

    @property
    def precision(self) -> float:
        return _ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float:
        return _ratio(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def f1(self) -> float:
        return _ratio(2 * self.true_positives, 2 * self.true_positives + self.false_positives + self.false_negatives)

    @property
    def false_alarm_rate(self) -> float:
        return _ratio(self.false_positives, self.false_positives + self.true_negatives)


def confusion(labels: np.ndarray, scores: np.ndarray, threshold: float) -> Confusion:
    """labels: 0/1, N. scores: N. Counts with `score >= threshold` called defective."""
    positive, called = labels.astype(bool), scores >= threshold
    return Confusion(
        true_positives=int((positive & called).sum()),
        false_positives=int((~positive & called).sum()),
        true_negatives=int((~positive & ~called).sum()),
        false_negatives=int((positive & ~called).sum()),
    )


def precision_recall_curve(labels: np.ndarray, scores: np.ndarray) -> Curve:
    """labels: 0/1, N with at least one 1. scores: finite, N. Raises ValueError where there is no positive."""
    positives = int(np.count_nonzero(labels))
    if positives == 0:
        raise ValueError("a precision-recall curve needs at least one positive")
    order = np.argsort(-scores, kind="stable")
    ranked_scores, ranked_labels = np.asarray(scores, np.float64)[order], labels[order] != 0
    last_of_tie = np.append(np.flatnonzero(np.diff(ranked_scores)), len(scores) - 1)
    found = np.cumsum(ranked_labels)[last_of_tie]
    return Curve(
        precision=(found / (last_of_tie + 1))[::-1],
        recall=(found / positives)[::-1],
        thresholds=ranked_scores[last_of_tie][::-1],
    )


def ap_trapezoid(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the precision-recall curve by trapezoids, closed with (recall 0, precision 1).

    This is what the segmentation-decision network's code, and papers that use it, call AP:
    `auc(recall, precision)`. Linear interpolation between points is optimistic (Davis and Goadrich 2006), and
    with all scores tied it gives (1 + share of positives) / 2.
    """
    curve = precision_recall_curve(labels, scores)
    precision, recall = np.append(curve.precision, 1.0), np.append(curve.recall, 0.0)
    return float(np.sum((recall[:-1] - recall[1:]) * (precision[:-1] + precision[1:]) / 2.0))


def average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """AP = sum over thresholds of (R_n - R_{n-1}) P_n, as scikit-learn's `average_precision_score`."""
    curve = precision_recall_curve(labels, scores)
    recall = np.append(curve.recall, 0.0)
    return float(np.sum((recall[:-1] - recall[1:]) * curve.precision))


def best_f1(labels: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """(best F1, its threshold); the highest threshold among equals.

    Picked on the very labels that it is measured on, so it flatters: for comparison with papers only.
    """
    curve = precision_recall_curve(labels, scores)
    total = curve.precision + curve.recall
    f1 = np.divide(2.0 * curve.precision * curve.recall, total, out=np.zeros_like(total), where=total > 0)
    index = len(f1) - 1 - int(np.argmax(f1[::-1]))
    return float(f1[index]), float(curve.thresholds[index])


def _ratio(numerator: int, denominator: int) -> float:
    return numerator / denominator if denominator else 0.0
