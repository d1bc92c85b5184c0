import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError
from scipy.stats import beta

from flawsmith.classification.thresholds import (
    FalseAlarmRateRule,
    RecallRule,
    ThresholdRule,
    from_false_alarm_rate,
    from_recall,
    positives_needed,
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
@pytest.mark.parametrize("count", [29, 60, 246])
def test_recall_threshold_misses_as_many_as_the_clopper_pearson_bound_allows(recall: float, count: int) -> None:
    scores = np.random.default_rng(count).random(count).astype(np.float32)
    threshold = from_recall(RecallRule(value=recall), scores)
    missed = np.count_nonzero(scores < threshold.value)
    assert beta.ppf(0.05, count - missed, missed + 1) >= recall > beta.ppf(0.05, count - missed - 1, missed + 2)


@pytest.mark.parametrize(("recall", "count", "says"), [(0.9, 5, "29"), (0.95, 58, "59"), (1.0, 10_000, "no number")])
def test_too_few_positives_for_the_recall_are_refused_with_the_number_needed(
    recall: float, count: int, says: str
) -> None:
    with pytest.raises(FailedPreconditionError) as error:
        from_recall(RecallRule(value=recall), np.full(count, 0.9, np.float32))
    assert error.value.reason == "TOO_FEW_POSITIVES"
    assert says in error.value.message
    assert error.value.fields[0].field == "threshold_rule.recall"


@pytest.mark.parametrize("rule", [{"kind": "false_alarm_rate", "value": 1.5}, {"kind": "recall", "value": 0.0}])
def test_rules_out_of_range_are_refused(rule: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(ThresholdRule).validate_python(rule)
