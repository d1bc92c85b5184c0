"""Cells with scores of our choice; their figures are scikit-learn's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats
from sklearn import metrics

from flawsmith.bench.cells import Accounting, Arm, Cell, Regime
from flawsmith.bench.results import CellResult, ImageScore, OperatingPoint
from flawsmith.common.manifests import Label, Source


def scores_of(labels: np.ndarray, separation: float, seed: int) -> np.ndarray:
    """Scores of images, defects' `separation` deviations above normals'."""
    noise = np.random.default_rng(seed).normal(size=len(labels))
    return stats.norm.cdf(noise + separation * labels)


def operating_point(labels: np.ndarray, scores: np.ndarray, threshold: float) -> OperatingPoint:
    called = scores >= threshold
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        labels, called, average="binary", zero_division=0
    )
    return OperatingPoint(
        threshold=threshold,
        precision=precision,
        recall=recall,
        f1=f1,
        false_alarm_rate=float(called[labels == 0].mean()),
    )


def cell_result(
    arm: str,
    seed: int,
    labels: np.ndarray,
    scores: np.ndarray,
    *,
    regime: str = "few",
    accounting: str = "steps",
    n_aug: int | None = None,
    reconstructed: np.ndarray | None = None,
    threshold: float = 0.5,
    names: Sequence[str] = (),
    defect_types: Sequence[str] = (),
    seconds: float = 60.0,
    steps: int = 400,
) -> CellResult:
    """n_aug: 80 where not given and the arm adds synthetic defects."""
    kind = Arm(arm)
    if n_aug is None:
        n_aug = 80 if kind.synthetic else 0
    precision, recall, _ = metrics.precision_recall_curve(labels, scores)
    images = [
        ImageScore(
            image=names[row] if names else f"image-{row}",
            path=names[row] if names else "",
            label=Label.DEFECT if labels[row] else Label.NORMAL,
            defect_type=defect_types[row] if defect_types else "",
            score=float(scores[row]),
        )
        for row in range(len(labels))
    ]
    if reconstructed is not None:
        images += [
            ImageScore(
                image=f"reconstructed-{row}", label=Label.NORMAL, source=Source.RECONSTRUCTED, score=float(score)
            )
            for row, score in enumerate(reconstructed)
        ]
    return CellResult(
        cell=Cell(regime=Regime(regime), arm=kind, n_aug=n_aug, accounting=Accounting(accounting), seed=seed),
        ap=metrics.average_precision_score(labels, scores),
        ap_trapezoid=metrics.auc(recall, precision),
        at_threshold=operating_point(labels, scores, threshold),
        at_best_f1_of_validation=None if regime == "zero" else operating_point(labels, scores, threshold),
        at_best_f1_of_test=operating_point(labels, scores, float(np.median(scores[labels == 1]))),
        reconstructed_false_alarm_rate=None if reconstructed is None else float((reconstructed >= threshold).mean()),
        test_scores=tuple(images),
        optimiser_steps=steps,
        seconds=seconds,
        dataset=f"products/steel/datasets/{regime}-{arm}-{n_aug}-{seed}",
        classifier=f"products/steel/classifiers/{regime}-{arm}-{n_aug}-{accounting}/versions/{seed}",
        recipe="in-and-out",
        backbone="resnet50",
        height=300,
        width=100,
    )
