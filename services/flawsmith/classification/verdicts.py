"""From what a graph computes of one image to an answer."""

from __future__ import annotations

from typing import NamedTuple

from flawsmith.classification.manifests import ClassifierVersionManifest
from flawsmith.classification.thresholds import Verdict


class Judgement(NamedTuple):
    """score: probability of a defect, 0 to 1, as the network puts it; the threshold is about it.
    calibrated_probability: None where the version is not calibrated."""

    verdict: Verdict
    score: float
    calibrated_probability: float | None


def judge(version: ClassifierVersionManifest, probability: float, logit: float) -> Judgement:
    """probability, logit: outputs of the version's graph."""
    calibrated = None if version.calibration is None else version.calibration.probability(logit)
    return Judgement(version.threshold.verdict(probability), probability, calibrated)
