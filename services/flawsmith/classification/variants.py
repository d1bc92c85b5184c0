"""Variants of a version that compute in other arithmetic, and the gate that each must pass before it is offered."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from flawsmith.classification.intervals import share_bounds
from flawsmith.classification.metrics import average_precision
from flawsmith.classification.thresholds import Threshold
from flawsmith.common.errors import AbortedError, FailedPreconditionError
from flawsmith.common.manifests import Manifest

Precision = Literal["fp32", "int8"]

LARGEST_LOSS = 0.01
"""Of average precision that the interval may include: one point."""

LEAST_AGREEMENT = 0.95
"""That the lower bound of equal verdicts must reach; takes 59 images without a difference."""

LEAST_POSITIVES = 20
"""Real test defects. The bootstrap resamples those that are there: of fewer, a loss on one kind of defect is likely not
in the sample at all, and an interval of no width says nothing."""

BOOTSTRAPS = 1000


class VariantGate(Manifest):
    """What a variant was measured to lose on real test images; see VariantGate in the API."""

    normals: int
    defects: int
    ap_fp32: float
    ap: float
    ap_difference_low: float
    ap_difference_high: float
    verdict_agreement: float
    verdict_agreement_low: float


def check_gate_possible(labels: np.ndarray) -> None:
    """labels: 0/1, of the real test images. Raises FailedPreconditionError TOO_FEW_POSITIVES; worth asking first."""
    defects, images = int(np.count_nonzero(labels)), len(labels)
    fewest = math.ceil(math.log(0.05) / math.log(LEAST_AGREEMENT))
    if defects < LEAST_POSITIVES or images < fewest:
        raise FailedPreconditionError(
            "TOO_FEW_POSITIVES",
            f"the test split has {defects} real defects among {images} images; whether other arithmetic costs average "
            f"precision can be said with {LEAST_POSITIVES} defects and {fewest} images: import more, or deploy fp32",
        )


def pass_gate(labels: np.ndarray, fp32: np.ndarray, variant: np.ndarray, threshold: Threshold) -> VariantGate:
    """Compare a variant's probabilities with those of the graph as trained, on the same real test images.

    labels: 0/1, N. fp32, variant: N. threshold: of the version; where it has two, unknown is a verdict too. Images are
    resampled within each label, the same ones for both graphs; the interval is the 95 % percentile interval of
    AP(variant) - AP(fp32).
    Raises FailedPreconditionError TOO_FEW_POSITIVES, AbortedError VARIANT_GATE_FAILED.
    """
    check_gate_possible(labels)
    positives, negatives = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    generator = np.random.default_rng(0)
    differences = []
    for _ in range(BOOTSTRAPS):
        drawn = np.concatenate([generator.choice(part, len(part)) for part in (positives, negatives)])
        differences.append(
            average_precision(labels[drawn], variant[drawn]) - average_precision(labels[drawn], fp32[drawn])
        )
    low, high = (float(np.quantile(differences, share)) for share in (0.025, 0.975))
    pairs = zip(fp32.tolist(), variant.tolist(), strict=True)
    agreeing = sum(threshold.verdict(one) == threshold.verdict(other) for one, other in pairs)
    gate = VariantGate(
        normals=len(negatives),
        defects=len(positives),
        ap_fp32=average_precision(labels, fp32),
        ap=average_precision(labels, variant),
        ap_difference_low=low,
        ap_difference_high=high,
        verdict_agreement=agreeing / len(labels),
        verdict_agreement_low=share_bounds(agreeing, len(labels), 0.05)[0],
    )
    if not (gate.ap_difference_low >= -LARGEST_LOSS and gate.verdict_agreement_low >= LEAST_AGREEMENT):
        raise AbortedError(
            "VARIANT_GATE_FAILED",
            f"average precision {gate.ap_fp32:.4f} became {gate.ap:.4f} (difference {low:+.4f} to {high:+.4f}, at most "
            f"{LARGEST_LOSS:g} may be lost) and {gate.verdict_agreement:.2%} of the verdicts stayed (at least "
            f"{gate.verdict_agreement_low:.2%}; {LEAST_AGREEMENT:.0%} are asked for); it is not offered: deploy fp32",
        )
    return gate
