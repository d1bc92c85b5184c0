import numpy as np
import pytest
from sklearn import metrics as reference

from flawsmith.classification import metrics


def cases() -> list[tuple[np.ndarray, np.ndarray]]:
    generator = np.random.default_rng(0)
    found = []
    for count in (2, 3, 10, 121):
        for values in (2, 7, 10**6):  # many ties, some, none
            labels = generator.integers(0, 2, count)
            labels[0] = 1
            scores = (generator.integers(0, values, count) + labels * values * 0.3) / values
            found.append((labels, scores.astype(np.float32)))
    found.append((np.ones(4, int), np.full(4, 0.5, np.float32)))
    found.append((np.array([0, 0, 1]), np.full(3, 1.0, np.float32)))
    return found


@pytest.mark.parametrize(("labels", "scores"), cases())
def test_areas_and_curve_equal_scikit_learn(labels: np.ndarray, scores: np.ndarray) -> None:
    precision, recall, thresholds = reference.precision_recall_curve(labels, scores)
    curve = metrics.precision_recall_curve(labels, scores)
    np.testing.assert_allclose(curve.precision, precision[:-1])
    np.testing.assert_allclose(curve.recall, recall[:-1])
    np.testing.assert_allclose(curve.thresholds, thresholds)
    assert metrics.ap_trapezoid(labels, scores) == pytest.approx(reference.auc(recall, precision))
    assert metrics.average_precision(labels, scores) == pytest.approx(reference.average_precision_score(labels, scores))


@pytest.mark.parametrize(("labels", "scores"), cases())
@pytest.mark.parametrize("threshold", [0.0, 0.25, 0.5, 2.0])
def test_confusion_equals_scikit_learn(labels: np.ndarray, scores: np.ndarray, threshold: float) -> None:
    called = (scores >= threshold).astype(int)
    counts = metrics.confusion(labels, scores, threshold)
    assert counts.precision == pytest.approx(reference.precision_score(labels, called, zero_division=0))
    assert counts.recall == pytest.approx(reference.recall_score(labels, called, zero_division=0))
    assert counts.f1 == pytest.approx(reference.f1_score(labels, called, zero_division=0))
    normals = labels == 0
    expected = float(called[normals].mean()) if normals.any() else 0.0
    assert counts.false_alarm_rate == pytest.approx(expected)


@pytest.mark.parametrize(("labels", "scores"), cases())
def test_best_f1_is_the_best_of_all_thresholds_and_its_threshold_attains_it(
    labels: np.ndarray, scores: np.ndarray
) -> None:
    value, threshold = metrics.best_f1(labels, scores)
    tried = [reference.f1_score(labels, scores >= candidate) for candidate in np.unique(scores)]
    assert value == pytest.approx(max(tried))
    assert metrics.confusion(labels, scores, threshold).f1 == pytest.approx(value)


def test_curve_without_positives_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one positive"):
        metrics.precision_recall_curve(np.zeros(3, int), np.array([0.1, 0.2, 0.3]))
