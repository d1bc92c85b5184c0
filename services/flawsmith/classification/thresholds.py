"""From a business rule to a threshold; never from the test split."""

from __future__ import annotations

import hashlib
import math
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from flawsmith.common.errors import FailedPreconditionError, FieldViolation
from flawsmith.common.manifests import Manifest

CONFIDENCE = 0.95
"""Of the statement "recall is at least x"."""


class FalseAlarmRateRule(Manifest):
    """At most this share of the validation normals is called defective."""

    kind: Literal["false_alarm_rate"] = "false_alarm_rate"
    value: float = Field(default=0.05, ge=0.0, le=1.0)


class RecallRule(Manifest):
    """At least this share of real defects is found, with 95 % confidence, by out-of-fold scores."""

    kind: Literal["recall"] = "recall"
    value: float = Field(gt=0.0, le=1.0)


ThresholdRule = Annotated[FalseAlarmRateRule | RecallRule, Field(discriminator="kind")]


class Threshold(Manifest):
    """A part is defective from score `value` on. rule: in words. id: 12 hex digits made from rule and value.

    value is 0 to 1, or the next float32 above 1 where a rule can only be kept by calling nothing defective.
    """

    id: str
    value: float
    rule: str


def from_false_alarm_rate(rule: FalseAlarmRateRule, normal_scores: np.ndarray) -> Threshold:
    """The lowest threshold that calls at most `floor(rate * n)` of n validation normals defective.

    normal_scores: n probabilities of the validation normals. With them sorted downwards, s[0] >= s[1] >= ...,
    and k = floor(rate * n), the threshold is the next float32 above s[k]: no quantile interpolation, at most k
    scores reach it, ties included (when all tie, none does), and 0 when k = n.
    Raises FailedPreconditionError NO_VALIDATION_NORMALS.
    """
    count = len(normal_scores)
    if count == 0:
        raise FailedPreconditionError(
            "NO_VALIDATION_NORMALS",
            "a false-alarm rate is measured on validation normals and the data set has none; import more normals",
            fields=[FieldViolation("threshold_rule.false_alarm_rate", "needs normals in the validation split")],
        )
    allowed = math.floor(rule.value * count + 1e-9)  # 0.29 * 100 is 28.999...
    falling = np.sort(np.asarray(normal_scores, dtype=np.float32))[::-1]
    value = 0.0 if allowed >= count else float(np.nextafter(falling[allowed], np.float32(np.inf)))
    return _threshold(
        value,
        f"false-alarm rate <= {rule.value:g} on {count} validation normals (at most {allowed} called defective)",
    )


def positives_needed(recall: float) -> int | None:
    """Real positives from which on "recall >= recall" can be shown at all: none missed among n shows a recall of
    0.05 ** (1/n) (Clopper-Pearson, one-sided 95 %; the rule of three), so n >= ln 0.05 / ln recall. None: never."""
    if recall >= 1.0:
        return None
    return math.ceil(math.log(1.0 - CONFIDENCE) / math.log(recall) - 1e-9)


def check_recall_rule(rule: RecallRule, positives: int) -> None:
    """Raises FailedPreconditionError TOO_FEW_POSITIVES; worth asking before any training."""
    needed = positives_needed(rule.value)
    if needed is not None and positives >= needed:
        return
    text = (
        f"a recall of at least {rule.value:g} cannot be shown with {positives} real defects: "
        + (
            "no number of them can show a recall of 1; ask for 0.95, which takes 59"
            if needed is None
            else f"it takes {needed}, none of them missed, at {CONFIDENCE:.0%} confidence"
        )
        + "; import more real defects, ask for less, or use a false-alarm rate"
    )
    raise FailedPreconditionError("TOO_FEW_POSITIVES", text, fields=[FieldViolation("threshold_rule.recall", text)])


def from_recall(rule: RecallRule, out_of_fold_scores: np.ndarray) -> Threshold:
    """The highest threshold whose recall is at least the rule's with 95 % confidence.

    out_of_fold_scores: n probabilities of real training positives, each by a network that was not trained on it.
    With them sorted upwards and m the largest number of misses that still shows it (the one-sided Clopper-Pearson
    bound of n - m found among n is >= recall), the threshold is s[m].
    Raises FailedPreconditionError TOO_FEW_POSITIVES.
    """
    count = len(out_of_fold_scores)
    check_recall_rule(rule, count)
    missed = 0
    while _chance_of_misses(missed + 1, count, rule.value) <= 1.0 - CONFIDENCE:
        missed += 1
    value = float(np.sort(np.asarray(out_of_fold_scores, dtype=np.float32))[missed])
    return _threshold(
        value,
        f"recall >= {rule.value:g} at {CONFIDENCE:.0%} confidence on out-of-fold scores of {count} real defects "
        f"({missed} missed)",
    )


def _chance_of_misses(most: int, count: int, recall: float) -> float:
    """Chance to miss at most `most` of `count` where the true recall is `recall`. It is <= 0.05 exactly when the
    one-sided 95 % Clopper-Pearson lower bound of the recall is >= `recall`."""
    return sum(
        math.comb(count, missed) * (1.0 - recall) ** missed * recall ** (count - missed) for missed in range(most + 1)
    )


def _threshold(value: float, rule: str) -> Threshold:
    digest = hashlib.sha256(f"{rule}\n{value!r}".encode()).hexdigest()
    return Threshold(id=digest[:12], value=value, rule=rule)
