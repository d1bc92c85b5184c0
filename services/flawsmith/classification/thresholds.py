"""From a business rule to a threshold; never from the test split."""

from __future__ import annotations

import bisect
import hashlib
import math
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from flawsmith.classification.intervals import chance_of_at_least
from flawsmith.common.errors import FailedPreconditionError, FieldViolation
from flawsmith.common.manifests import Manifest

CONFIDENCE = 0.95
"""Of the statement "recall is at least x"."""

COST_UNCERTAINTY = 0.2
"""A cost rule weighs misses, so their share must be known to within this, or finer where misses are dear."""

Verdict = Literal["ok", "unknown", "defective"]


class FalseAlarmRateRule(Manifest):
    """At most this share of the validation normals is called defective."""

    kind: Literal["false_alarm_rate"] = "false_alarm_rate"
    value: float = Field(default=0.05, ge=0.0, le=1.0)


class RecallRule(Manifest):
    """At least this share of real defects is found, with 95 % confidence, by out-of-fold scores."""

    kind: Literal["recall"] = "recall"
    value: float = Field(gt=0.0, le=1.0)


class CostRule(Manifest):
    """Mistakes cost least. ratio: cost of a missed defect over that of a false alarm. defect_share: share of the line's
    parts that are defective, which no data set tells."""

    kind: Literal["cost"] = "cost"
    ratio: float = Field(gt=0.0, le=1e9)
    defect_share: float = Field(gt=0.0, lt=1.0)


class TwoThresholdsRule(Manifest):
    """A part is OK below the lower threshold (set by `recall`), defective from the upper on (set by
    `false_alarm_rate`), unknown in between."""

    kind: Literal["two_thresholds"] = "two_thresholds"
    recall: float = Field(gt=0.0, le=1.0)
    false_alarm_rate: float = Field(default=0.0, ge=0.0, le=1.0)


ThresholdRule = Annotated[FalseAlarmRateRule | RecallRule | CostRule | TwoThresholdsRule, Field(discriminator="kind")]


class Threshold(Manifest):
    """A part is defective from score `value` on. rule: in words. id: 12 hex digits made from rule and values.

    value is 0 to 1, or the next float32 above 1 where a rule can only be kept by calling nothing defective.
    ok_below: with two thresholds, the lower one; None where the rule has one.
    """

    id: str
    value: float
    rule: str
    ok_below: float | None = None

    def verdict(self, score: float) -> Verdict:
        """What a score (probability, as the network puts it) means."""
        if score >= self.value:
            return "defective"
        return "unknown" if self.ok_below is not None and score >= self.ok_below else "ok"


def set_threshold(rule: ThresholdRule, normal_scores: np.ndarray, out_of_fold_scores: np.ndarray) -> Threshold:
    """The threshold of a rule.

    normal_scores: probabilities of the validation normals. out_of_fold_scores: of real training defects, each by a
    network that was not trained on it; only rules for which `needs_out_of_fold` holds look at them.
    Raises FailedPreconditionError NO_VALIDATION_NORMALS, TOO_FEW_POSITIVES.
    """
    match rule:
        case FalseAlarmRateRule():
            return from_false_alarm_rate(rule, normal_scores)
        case RecallRule():
            return from_recall(rule, out_of_fold_scores)
        case CostRule():
            return from_cost(rule, normal_scores, out_of_fold_scores)
        case TwoThresholdsRule():
            return from_two_thresholds(rule, normal_scores, out_of_fold_scores)


def needs_out_of_fold(rule: ThresholdRule) -> bool:
    """Whether the rule is about real defects, so that networks must be trained without some of them."""
    return not isinstance(rule, FalseAlarmRateRule)


def needs_normals(rule: ThresholdRule) -> bool:
    """Whether the rule is about normals, so that the validation split must hold some."""
    return not isinstance(rule, RecallRule)


def check_rule(rule: ThresholdRule, positives: int) -> None:
    """Refuse a rule that so many real training defects cannot support; worth asking before any training.

    Raises FailedPreconditionError TOO_FEW_POSITIVES saying how many it takes.
    """
    match rule:
        case RecallRule():
            _check_recall(rule.value, positives, "threshold_rule.recall")
        case CostRule():
            _check_cost(rule, positives)
        case TwoThresholdsRule():
            _check_recall(rule.recall, positives, "threshold_rule.two_thresholds.recall")


def from_false_alarm_rate(rule: FalseAlarmRateRule, normal_scores: np.ndarray) -> Threshold:
    """The lowest threshold that calls at most `floor(rate * n)` of n validation normals defective.

    normal_scores: n probabilities of the validation normals. With them sorted downwards, s[0] >= s[1] >= ...,
    and k = floor(rate * n), the threshold is the next float32 above s[k]: no quantile interpolation, at most k
    scores reach it, ties included (when all tie, none does), and 0 when k = n.
    Raises FailedPreconditionError NO_VALIDATION_NORMALS.
    """
    count = len(normal_scores)
    _check_normals(count)
    allowed = math.floor(rule.value * count + 1e-9)  # 0.29 * 100 is 28.999...
    falling = np.sort(np.asarray(normal_scores, dtype=np.float32))[::-1]
    value = 0.0 if allowed >= count else float(_next_above(falling[allowed]))
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


def from_recall(rule: RecallRule, out_of_fold_scores: np.ndarray) -> Threshold:
    """The highest threshold whose recall is at least the rule's with 95 % confidence.

    out_of_fold_scores: n probabilities of real training positives, each by a network that was not trained on it.
    With them sorted upwards and m the largest number of misses that still shows it (the one-sided Clopper-Pearson
    bound of n - m found among n is >= recall), the threshold is s[m].
    Raises FailedPreconditionError TOO_FEW_POSITIVES.
    """
    count = len(out_of_fold_scores)
    check_rule(rule, count)
    # The bound is >= recall exactly where a true recall of that leaves at most a 5 % chance of so few misses.
    missed = bisect.bisect_right(
        range(1, count + 1), 1.0 - CONFIDENCE, key=lambda most: chance_of_at_least(count - most, count, rule.value)
    )
    value = float(np.sort(np.asarray(out_of_fold_scores, dtype=np.float32))[missed])
    return _threshold(
        value,
        f"recall >= {rule.value:g} at {CONFIDENCE:.0%} confidence on out-of-fold scores of {count} real defects "
        f"({missed} missed)",
    )


def from_cost(rule: CostRule, normal_scores: np.ndarray, out_of_fold_scores: np.ndarray) -> Threshold:
    """The threshold of least expected cost a part, in units of one false alarm:

        ratio * defect_share * (share of the defects missed) + (1 - defect_share) * (share of the normals called)

    counted on out-of-fold scores of n real defects and on m validation normals: the point of the ROC curve that a line
    of that slope touches first (Provost and Fawcett 2001). Thresholds tried are 0 and the next float32 above each
    score; among equals the lowest, which misses least, is taken.
    Raises FailedPreconditionError NO_VALIDATION_NORMALS, TOO_FEW_POSITIVES.
    """
    _check_normals(len(normal_scores))
    check_rule(rule, len(out_of_fold_scores))
    normals = np.sort(np.asarray(normal_scores, dtype=np.float32))
    defects = np.sort(np.asarray(out_of_fold_scores, dtype=np.float32))
    scores = np.unique(np.concatenate([normals, defects]))
    candidates = np.concatenate([np.zeros(1, np.float32), _next_above(scores)])
    missed = np.divide(np.searchsorted(defects, candidates, side="left"), len(defects))
    called = 1.0 - np.divide(np.searchsorted(normals, candidates, side="left"), len(normals))
    cost = rule.ratio * rule.defect_share * missed + (1.0 - rule.defect_share) * called
    best = int(np.argmin(cost))
    return _threshold(
        float(candidates[best]),
        f"least cost where a missed defect costs {rule.ratio:g} false alarms and {rule.defect_share:g} of the parts "
        f"are defective, on {len(normals)} validation normals ({called[best]:.1%} called defective) and out-of-fold "
        f"scores of {len(defects)} real defects ({missed[best]:.1%} missed)",
    )


def from_two_thresholds(
    rule: TwoThresholdsRule, normal_scores: np.ndarray, out_of_fold_scores: np.ndarray
) -> Threshold:
    """The lower threshold by `from_recall`, the upper by `from_false_alarm_rate`.

    Where the two cross, every score from the upper to the lower keeps both promises: one threshold in the middle of
    them is set, and no part is unknown.
    Raises FailedPreconditionError NO_VALIDATION_NORMALS, TOO_FEW_POSITIVES.
    """
    check_rule(rule, len(out_of_fold_scores))
    upper = from_false_alarm_rate(FalseAlarmRateRule(value=rule.false_alarm_rate), normal_scores)
    lower = from_recall(RecallRule(value=rule.recall), out_of_fold_scores)
    words = f"OK: {lower.rule}; defective: {upper.rule}"
    if lower.value >= upper.value:
        middle = float(np.float32((lower.value + upper.value) / 2.0))
        return _threshold(middle, f"{words}; one threshold keeps both, so no part is unknown", ok_below=middle)
    return _threshold(upper.value, f"{words}; unknown in between", ok_below=lower.value)


def _check_normals(count: int) -> None:
    if count == 0:
        raise FailedPreconditionError(
            "NO_VALIDATION_NORMALS",
            "false alarms are counted on validation normals and the data set has none; import more normals",
            fields=[FieldViolation("threshold_rule", "needs normals in the validation split")],
        )


def _check_recall(recall: float, positives: int, field: str) -> None:
    needed = positives_needed(recall)
    if needed is not None and positives >= needed:
        return
    text = (
        f"a recall of at least {recall:g} cannot be shown with {positives} real defects: "
        + (
            "no number of them can show a recall of 1; ask for 0.95, which takes 59"
            if needed is None
            else f"it takes {needed}, none of them missed, at {CONFIDENCE:.0%} confidence"
        )
        + "; import more real defects, ask for less, or use a false-alarm rate"
    )
    raise FailedPreconditionError("TOO_FEW_POSITIVES", text, fields=[FieldViolation(field, text)])


def cost_uncertainty(rule: CostRule) -> float:
    """How exactly the share of missed defects must be known, 0 to 1.

    To within `COST_UNCERTAINTY`; and where misses are so dear that scrapping every part would cost less than missing
    that share of the defects, exactly enough to tell: ratio * defect_share * u <= 1 - defect_share.
    """
    return min(COST_UNCERTAINTY, (1.0 - rule.defect_share) / (rule.ratio * rule.defect_share))


def _check_cost(rule: CostRule, positives: int) -> None:
    # As for a recall: with none of n missed, the missed share is below 1 - 0.05 ** (1/n) at 95 % confidence.
    uncertainty = cost_uncertainty(rule)
    needed = positives_needed(1.0 - uncertainty)
    if needed is not None and positives >= needed:
        return
    text = (
        f"costs cannot be weighed with {positives} real defects: the share of missed ones must be known to within "
        f"{uncertainty:.3g}, which takes {needed}, none of them missed, at {CONFIDENCE:.0%} confidence; import more "
        "real defects, or use a false-alarm rate"
    )
    raise FailedPreconditionError("TOO_FEW_POSITIVES", text, fields=[FieldViolation("threshold_rule.cost", text)])


def _next_above(scores: np.ndarray) -> np.ndarray:
    """The next float32 above each score; above 0 the smallest normal one, since a process that flushes denormal numbers
    (training does) takes those between for 0."""
    return np.maximum(np.nextafter(scores, np.float32(np.inf)), np.finfo(np.float32).tiny)


def _threshold(value: float, rule: str, ok_below: float | None = None) -> Threshold:
    text = f"{rule}\n{value!r}" + (f"\n{ok_below!r}" if ok_below is not None else "")
    return Threshold(id=hashlib.sha256(text.encode()).hexdigest()[:12], value=value, rule=rule, ok_below=ok_below)
