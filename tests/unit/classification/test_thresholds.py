import itertools
import math

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError
from scipy.stats import beta

from flawsmith.classification.thresholds import (
    CostRule,
    FalseAlarmRateRule,
    RecallRule,
    ThresholdRule,
    TwoThresholdsRule,
    check_rule,
    cost_uncertainty,
    from_cost,
    from_false_alarm_rate,
    from_recall,
    from_two_thresholds,
    positives_needed,
    set_threshold,
)
from flawsmith.common.errors import FailedPreconditionError


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.05, 0.29, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("count", [1, 2, 19, 20, 100, 357])
@pytest.mark.parametrize("values", [1, 3, 10**6])
def test_false_alarm_rate_is_kept_and_a_lower_threshold_would_break_it(rate: float, count: int, values: int) -> None:
    scores = (np.random.default_rng(count).integers(0, values, count) / values).astype(np.float32)
    threshold = from_false_alarm_rate(FalseAlarmRateRule(value=rate), scores)
    called = np.count_nonzero(scores >= threshold.value)
    assert called <= rate * count + 1e-9
    below = scores[scores < threshold.value]
    if below.size:  # the next lower score would be one too many
        assert np.count_nonzero(scores >= below.max()) > rate * count
    else:
        assert threshold.value == 0.0


def test_when_all_scores_tie_nothing_is_called_defective_unless_everything_may_be() -> None:
    for tie in (0.0, 0.5, 1.0):
        scores = np.full(10, tie, np.float32)
        assert np.count_nonzero(scores >= from_false_alarm_rate(FalseAlarmRateRule(value=0.9), scores).value) == 0
        assert from_false_alarm_rate(FalseAlarmRateRule(value=1.0), scores).value == 0.0


def test_percentages_are_counted_exactly() -> None:
    scores = np.linspace(0, 1, 100, dtype=np.float32)
    threshold = from_false_alarm_rate(FalseAlarmRateRule(value=0.29), scores)  # 0.29 * 100 is 28.999... in floats
    assert np.count_nonzero(scores >= threshold.value) == 29


def test_threshold_says_where_it_came_from_and_its_id_follows_rule_and_value() -> None:
    scores = np.linspace(0, 1, 40, dtype=np.float32)
    one = from_false_alarm_rate(FalseAlarmRateRule(value=0.05), scores)
    assert "0.05" in one.rule
    assert "40 validation normals" in one.rule
    assert one == from_false_alarm_rate(FalseAlarmRateRule(value=0.05), scores)
    assert one.id != from_false_alarm_rate(FalseAlarmRateRule(value=0.1), scores).id


def test_false_alarm_rate_without_validation_normals_is_refused() -> None:
    with pytest.raises(FailedPreconditionError) as error:
        from_false_alarm_rate(FalseAlarmRateRule(), np.empty(0, np.float32))
    assert error.value.reason == "NO_VALIDATION_NORMALS"


@pytest.mark.parametrize(("recall", "needed"), [(0.5, 5), (0.8, 14), (0.9, 29), (0.95, 59), (0.99, 299)])
def test_positives_needed_is_where_the_clopper_pearson_bound_without_a_miss_reaches_the_recall(
    recall: float, needed: int
) -> None:
    assert positives_needed(recall) == needed
    assert beta.ppf(0.05, needed, 1) >= recall > beta.ppf(0.05, needed - 1, 1)


@pytest.mark.parametrize("recall", [0.5, 0.8, 0.9])
@pytest.mark.parametrize("count", [29, 60, 246, 5_000, 50_000])
def test_recall_threshold_misses_as_many_as_the_clopper_pearson_bound_allows(recall: float, count: int) -> None:
    scores = (np.random.default_rng(count).permutation(count) / count).astype(np.float32)  # no two are equal
    threshold = from_recall(RecallRule(value=recall), scores)
    missed = np.count_nonzero(scores < threshold.value)
    assert beta.ppf(0.05, count - missed, missed + 1) >= recall > beta.ppf(0.05, count - missed - 1, missed + 2)


def test_misses_of_few_defects_are_those_of_the_binomial_sum_itself() -> None:
    for recall, count in itertools.product((0.05, 0.3, 0.5, 0.8, 0.95), range(59, 300, 7)):
        threshold = from_recall(RecallRule(value=recall), np.arange(count, dtype=np.float32))
        chances = itertools.accumulate(
            math.comb(count, missed) * (1 - recall) ** missed * recall ** (count - missed) for missed in range(count)
        )
        assert threshold.value == sum(chance <= 0.05 for chance in chances) - 1


@pytest.mark.parametrize(("recall", "count", "says"), [(0.9, 5, "29"), (0.95, 58, "59"), (1.0, 10_000, "no number")])
def test_too_few_positives_for_the_recall_are_refused_with_the_number_needed(
    recall: float, count: int, says: str
) -> None:
    with pytest.raises(FailedPreconditionError) as error:
        from_recall(RecallRule(value=recall), np.full(count, 0.9, np.float32))
    assert error.value.reason == "TOO_FEW_POSITIVES"
    assert says in error.value.message
    assert error.value.fields[0].field == "threshold_rule.recall"


@pytest.mark.parametrize("ratio", [0.1, 1.0, 20.0])
@pytest.mark.parametrize("defect_share", [0.01, 0.2])
@pytest.mark.parametrize("values", [4, 10**6])
def test_cost_threshold_is_the_cheapest_of_all_and_the_lowest_of_those(
    ratio: float, defect_share: float, values: int
) -> None:
    generator = np.random.default_rng(values)
    normals = (generator.integers(0, values, 80) / values * 0.7).astype(np.float32)
    defects = (generator.integers(0, values, 40) / values * 0.7 + 0.3).astype(np.float32)
    rule = CostRule(ratio=ratio, defect_share=defect_share)

    def cost(threshold: float) -> float:
        return ratio * defect_share * np.mean(defects < threshold) + (1 - defect_share) * np.mean(normals >= threshold)

    threshold = from_cost(rule, normals, defects)
    scores = np.concatenate([normals, defects])
    tried = np.concatenate([[0.0, 2.0], np.unique(scores), np.nextafter(np.unique(scores), np.float32(2))])
    assert cost(threshold.value) == pytest.approx(min(map(cost, tried)))
    for lower in tried[tried < threshold.value - 1e-9]:
        # Every real step further down costs more; between two scores nothing changes.
        between = np.any((scores >= lower) & (scores < threshold.value))
        assert not between or cost(lower) > cost(threshold.value) - 1e-12


@pytest.mark.parametrize(
    ("rule", "uncertainty", "needed"),
    [
        (CostRule(ratio=10, defect_share=0.01), 0.2, 14),
        (CostRule(ratio=1000, defect_share=0.01), 0.099, 29),
        (CostRule(ratio=50, defect_share=0.5), 0.02, 149),
    ],
)
def test_costs_are_weighed_only_with_enough_defects_to_know_the_missed_share(
    rule: CostRule, uncertainty: float, needed: int
) -> None:
    assert cost_uncertainty(rule) == pytest.approx(uncertainty)
    # SciPy's Clopper-Pearson bound of the missed share when none of n is missed.
    assert beta.ppf(0.95, 1, needed) <= uncertainty < beta.ppf(0.95, 1, needed - 1)
    check_rule(rule, needed)
    with pytest.raises(FailedPreconditionError) as error:
        from_cost(rule, np.full(9, 0.1, np.float32), np.full(needed - 1, 0.9, np.float32))
    assert error.value.reason == "TOO_FEW_POSITIVES"
    assert f"which takes {needed}" in error.value.message
    assert error.value.fields[0].field == "threshold_rule.cost"


def test_two_thresholds_keep_both_promises_and_leave_the_rest_unknown() -> None:
    generator = np.random.default_rng(1)
    normals = generator.beta(2, 5, 200).astype(np.float32)
    defects = generator.beta(5, 3, 100).astype(np.float32)
    threshold = from_two_thresholds(TwoThresholdsRule(recall=0.9, false_alarm_rate=0.02), normals, defects)
    verdicts = {
        name: [threshold.verdict(float(score)) for score in scores]
        for name, scores in (("normal", normals), ("defect", defects))
    }
    assert verdicts["normal"].count("defective") <= 0.02 * 200
    ok = verdicts["defect"].count("ok")
    assert beta.ppf(0.05, 100 - ok, ok + 1) >= 0.9
    assert verdicts["normal"].count("unknown") > 0
    assert threshold.ok_below == from_recall(RecallRule(value=0.9), defects).value
    assert threshold.value == from_false_alarm_rate(FalseAlarmRateRule(value=0.02), normals).value
    assert (threshold.verdict(threshold.ok_below), threshold.verdict(threshold.value)) == ("unknown", "defective")


def test_two_thresholds_that_cross_are_one_in_the_middle() -> None:
    normals, defects = np.full(40, 0.2, np.float32), np.full(60, 0.8, np.float32)
    threshold = from_two_thresholds(TwoThresholdsRule(recall=0.9, false_alarm_rate=0.0), normals, defects)
    assert threshold.value == threshold.ok_below == pytest.approx(0.5)
    assert "no part is unknown" in threshold.rule
    assert [threshold.verdict(score) for score in (0.2, 0.5, 0.8)] == ["ok", "defective", "defective"]


def test_two_thresholds_without_enough_defects_are_refused() -> None:
    rule = TwoThresholdsRule(recall=0.9, false_alarm_rate=0.05)
    with pytest.raises(FailedPreconditionError) as error:
        set_threshold(rule, np.full(50, 0.1, np.float32), np.full(5, 0.9, np.float32))
    assert error.value.reason == "TOO_FEW_POSITIVES"
    assert "29" in error.value.message
    assert error.value.fields[0].field == "threshold_rule.two_thresholds.recall"


@pytest.mark.parametrize(
    "rule", [CostRule(ratio=1, defect_share=0.1), TwoThresholdsRule(recall=0.5, false_alarm_rate=0.1)]
)
def test_rules_about_normals_need_some(rule: ThresholdRule) -> None:
    with pytest.raises(FailedPreconditionError) as error:
        set_threshold(rule, np.empty(0, np.float32), np.full(50, 0.9, np.float32))
    assert error.value.reason == "NO_VALIDATION_NORMALS"


@pytest.mark.parametrize(
    "rule",
    [
        {"kind": "false_alarm_rate", "value": 1.5},
        {"kind": "recall", "value": 0.0},
        {"kind": "cost", "ratio": 0.0, "defect_share": 0.1},
        {"kind": "cost", "ratio": 1.0, "defect_share": 1.0},
        {"kind": "cost", "ratio": 1.0},
        {"kind": "two_thresholds", "false_alarm_rate": 0.1},
        {"kind": "two_thresholds", "recall": 1.1, "false_alarm_rate": 0.1},
    ],
)
def test_rules_out_of_range_are_refused(rule: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(ThresholdRule).validate_python(rule)
