"""Scores of a split, and what they come to."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from flawsmith.classification import metrics
from flawsmith.classification.manifests import Evaluation, PrecisionRecallPoint
from flawsmith.common.manifests import Label, ObjectRef, Split


def evaluate(
    split: Split,
    labels: np.ndarray,
    scores: np.ndarray,
    threshold: float,
    predictions: ObjectRef | None = None,
) -> Evaluation:
    """labels: 0/1, N. scores: probabilities, N. threshold: a score at or above it is called defective."""
    counts = metrics.confusion(labels, scores, threshold)
    has_defects = bool(np.any(labels))
    curve = metrics.precision_recall_curve(labels, scores) if has_defects else None
    return Evaluation(
        split=split,
        normals=int(np.count_nonzero(labels == 0)),
        defects=int(np.count_nonzero(labels)),
        ap_trapezoid=metrics.ap_trapezoid(labels, scores) if has_defects else None,
        ap=metrics.average_precision(labels, scores) if has_defects else None,
        precision=counts.precision,
        recall=counts.recall,
        false_alarm_rate=counts.false_alarm_rate,
        best_f1=metrics.best_f1(labels, scores)[0] if has_defects else None,
        curve=tuple(
            PrecisionRecallPoint(precision=float(precision), recall=float(recall), threshold=float(value))
            for precision, recall, value in zip(curve.precision, curve.recall, curve.thresholds, strict=True)
        )
        if curve
        else (),
        predictions=predictions,
    )


def predictions_jsonl(digests: Sequence[str], labels: Sequence[Label], scores: np.ndarray) -> bytes:
    """One JSON object a line: sha256 of the image file, label, score (probability of a defect)."""
    lines = [
        json.dumps({"sha256": digest, "label": label.value, "score": float(score)})
        for digest, label, score in zip(digests, labels, scores, strict=True)
    ]
    return "".join(line + "\n" for line in lines).encode()
