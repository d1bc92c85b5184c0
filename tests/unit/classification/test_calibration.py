import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit
from sklearn.calibration import calibration_curve

from flawsmith.classification.calibration import class_weights, fit_temperature, reliability, sigmoid


def scores(count: int, share: float, true_temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are `true_temperature` times too large, and labels drawn from what they should have said."""
    generator = np.random.default_rng(count)
    labels = (generator.random(count) < share).astype(int)
    # Two Gaussians of unit variance, 2 apart, have log odds 2x at equal shares.
    position = generator.normal(np.where(labels == 1, 1.0, -1.0))
    return 2.0 * position * true_temperature, labels


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("share", [0.5, 0.05])
def test_temperature_is_recovered_whatever_the_share_of_defects(true_temperature: float, share: float) -> None:
    logits, labels = scores(20_000, share, true_temperature)
    found = fit_temperature(logits, labels)
    assert found is not None
    assert found.temperature == pytest.approx(true_temperature, rel=0.1)
    assert (found.defects, found.normals) == (labels.sum(), 20_000 - labels.sum())
    error, _ = reliability(labels, found.probabilities(logits))
    assert error < 0.03


@pytest.mark.parametrize("count", [12, 80, 500])
def test_temperature_is_where_scipy_finds_the_least_cross_entropy(count: int) -> None:
    logits, labels = scores(count, 0.3, 2.0)
    n, m = labels.sum(), (1 - labels).sum()
    targets = np.where(labels == 1, (n + 1) / (n + 2), 1 / (m + 2))

    def loss(log_temperature: float) -> float:
        p = expit(logits / np.exp(log_temperature))
        losses = -targets * np.log(p) - (1 - targets) * np.log1p(-p)
        return losses[labels == 1].mean() + losses[labels == 0].mean()

    found = fit_temperature(logits, labels)
    assert found is not None
    expected = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded", options={"xatol": 1e-8})
    assert np.log(found.temperature) == pytest.approx(expected.x, abs=1e-4)


def test_a_handful_of_separable_scores_does_not_make_certainties() -> None:
    found = fit_temperature(np.array([-9.0, -8.0, -8.5, 7.0, 9.0]), np.array([0, 0, 0, 1, 1]))
    assert found is not None
    assert found.temperature > 1.0
    assert 0.6 < found.probability(8.0) < 0.95  # two defects can show no more


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_alone_is_no_calibration(label: int) -> None:
    assert fit_temperature(np.array([1.0, 2.0]), np.full(2, label)) is None


def test_reliability_equals_scikit_learn_where_the_classes_are_balanced() -> None:
    generator = np.random.default_rng(3)
    probabilities, labels = generator.random(400), np.repeat([0, 1], 200)
    error, bins = reliability(labels, probabilities)
    share, mean = calibration_curve(labels, probabilities, n_bins=10)
    np.testing.assert_allclose([b.defective for b in bins], share)
    np.testing.assert_allclose([b.probability for b in bins], mean)
    assert sum(b.images for b in bins) == 400
    counts = np.array([b.images for b in bins])
    assert error == pytest.approx(np.sum(counts / 400 * np.abs(share - mean)))


def test_classes_weigh_alike_and_the_ends_of_the_scale_have_bins() -> None:
    labels = np.array([1, 0, 0, 0])
    np.testing.assert_allclose(class_weights(labels), [1 / 2, 1 / 6, 1 / 6, 1 / 6])
    error, bins = reliability(labels, np.array([1.0, 0.0, 0.0, 1.0]))
    assert [(b.probability, b.images) for b in bins] == [(0.0, 2), (1.0, 2)]
    assert bins[1].defective == pytest.approx(0.75)
    assert error == pytest.approx((1 / 2 + 1 / 6) * 0.25)
    np.testing.assert_allclose(class_weights(np.zeros(4)), 0.25)


def test_sigmoid_does_not_overflow() -> None:
    with np.errstate(all="raise", under="ignore"):
        np.testing.assert_allclose(sigmoid(np.array([-1e4, 0.0, 1e4])), [0.0, 0.5, 1.0])
