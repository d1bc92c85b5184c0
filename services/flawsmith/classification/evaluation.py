"""What the scores of a split come to."""

from __future__ import annotations

import numpy as np

from flawsmith.classification import metrics
from flawsmith.classification.calibration import Calibration, reliability
from flawsmith.classification.intervals import bootstrap_interval, share_interval
from flawsmith.classification.manifests import (
    Evaluation,
    Group,
    OperatingPoint,
    PrecisionRecallPoint,
    Reliability,
    ReliabilityBin,
)
from flawsmith.classification.predictions import Predictions
from flawsmith.classification.thresholds import Threshold
from flawsmith.common.manifests import Source, Split


def evaluate(
    split: Split,
    predictions: Predictions,
    threshold: Threshold,
    calibration: Calibration | None,
    best_f1_of_validation: float | None,
) -> Evaluation:
    """Figures of the real images among `predictions`; by source, of the synthetic ones too.

    best_f1_of_validation: the threshold of best F1 on the validation split; None where that has no defects.
    """
    real = predictions.take(predictions.real)
    labels, scores = real.labels, real.scores
    has_defects = bool(np.any(labels))
    curve = metrics.precision_recall_curve(labels, scores) if has_defects else None
    unknown = np.array([threshold.verdict(float(score)) == "unknown" for score in scores], dtype=bool)
    return Evaluation(
        split=split,
        normals=int(np.count_nonzero(labels == 0)),
        defects=int(np.count_nonzero(labels)),
        unknown=int(np.count_nonzero(unknown)),
        unknown_normals=int(np.count_nonzero(unknown & (labels == 0))),
        unknown_defects=int(np.count_nonzero(unknown & (labels == 1))),
        ap_trapezoid=metrics.ap_trapezoid(labels, scores) if has_defects else None,
        ap_trapezoid_interval=bootstrap_interval(metrics.ap_trapezoid, labels, scores),
        ap=metrics.average_precision(labels, scores) if has_defects else None,
        ap_interval=bootstrap_interval(metrics.average_precision, labels, scores),
        at_threshold=operating_point(labels, scores, threshold.value),
        at_ok_below=None if threshold.ok_below is None else operating_point(labels, scores, threshold.ok_below),
        at_best_f1_of_validation=None
        if best_f1_of_validation is None
        else operating_point(labels, scores, best_f1_of_validation),
        at_best_f1_here=operating_point(labels, scores, metrics.best_f1(labels, scores)[1]) if has_defects else None,
        curve=tuple(
            PrecisionRecallPoint(precision=float(precision), recall=float(recall), threshold=float(value))
            for precision, recall, value in zip(curve.precision, curve.recall, curve.thresholds, strict=True)
        )
        if curve
        else (),
        defect_types=_by_defect_type(real, threshold.value),
        sources=_by_source(predictions, threshold.value),
        reliability=_reliability(real, calibration) if len(real) else None,
    )


def operating_point(labels: np.ndarray, scores: np.ndarray, threshold: float) -> OperatingPoint:
    """What comes of taking scores from `threshold` on for defects. labels: 0/1, N. scores: N."""
    counts = metrics.confusion(labels, scores, threshold)
    defects, normals = int(np.count_nonzero(labels)), int(np.count_nonzero(labels == 0))
    return OperatingPoint(
        threshold=threshold,
        true_positives=counts.true_positives,
        false_positives=counts.false_positives,
        true_negatives=counts.true_negatives,
        false_negatives=counts.false_negatives,
        precision=counts.precision,
        recall=counts.recall,
        f1=counts.f1,
        false_alarm_rate=counts.false_alarm_rate,
        precision_interval=bootstrap_interval(
            lambda drawn, values: metrics.confusion(drawn, values, threshold).precision, labels, scores
        ),
        recall_interval=share_interval(counts.true_positives, defects),
        false_alarm_rate_interval=share_interval(counts.false_positives, normals),
        f1_interval=bootstrap_interval(
            lambda drawn, values: metrics.confusion(drawn, values, threshold).f1, labels, scores
        ),
    )


def best_f1_threshold(predictions: Predictions) -> float | None:
    """Where F1 is best on the real images of a split; None without defects."""
    real = predictions.take(predictions.real)
    return metrics.best_f1(real.labels, real.scores)[1] if np.any(real.labels) else None


def _by_defect_type(real: Predictions, threshold: float) -> tuple[Group, ...]:
    """Each type's defects against all normals. Nothing where no type is known."""
    labels = real.labels
    types = [image.defect_type if label else "" for image, label in zip(real.images, labels, strict=True)]
    if not any(types):
        return ()
    normals = labels == 0
    groups = []
    for name in sorted({kind for kind, label in zip(types, labels, strict=True) if label}):
        of_type = np.array([kind == name for kind in types]) & (labels == 1)
        groups.append(_group(name or "not stated", real.take(of_type), real.take(normals), threshold))
    return tuple(groups)


def _by_source(predictions: Predictions, threshold: float) -> tuple[Group, ...]:
    """Each source's images; its defects' average precision against the real normals."""
    labels = predictions.labels
    normals = predictions.take(predictions.real & (labels == 0))
    groups = []
    for source in Source:
        of_source = np.array([image.source is source for image in predictions.images], dtype=bool)
        if of_source.any():
            groups.append(_group(source.value, predictions.take(of_source), normals, threshold))
    return tuple(groups)


def _group(name: str, members: Predictions, normals: Predictions, threshold: float) -> Group:
    """normals: what the members' defects are ranked against."""
    labels = members.labels
    counts = metrics.confusion(labels, members.scores, threshold)
    defects, goods = int(labels.sum()), int((labels == 0).sum())
    ap, ap_interval = None, None
    if defects and len(normals):
        ranked = np.concatenate([members.scores[labels == 1], normals.scores])
        truth = np.repeat([1, 0], [defects, len(normals)])
        ap = metrics.average_precision(truth, ranked)
        ap_interval = bootstrap_interval(metrics.average_precision, truth, ranked)
    return Group(
        name=name,
        normals=goods,
        defects=defects,
        ap=ap,
        ap_interval=ap_interval,
        recall=counts.recall if defects else None,
        recall_interval=share_interval(counts.true_positives, defects),
        false_alarm_rate=counts.false_alarm_rate if goods else None,
        false_alarm_rate_interval=share_interval(counts.false_positives, goods),
    )


def _reliability(real: Predictions, calibration: Calibration | None) -> Reliability:
    before, bins = reliability(real.labels, real.scores.astype(np.float64))
    after = None
    if calibration is not None:
        after, bins = reliability(real.labels, calibration.probabilities(real.logits))
    return Reliability(
        calibration_error_before=before,
        calibration_error=after,
        bins=tuple(
            ReliabilityBin(probability=one.probability, defective=one.defective, images=one.images) for one in bins
        ),
    )
