import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score

from flawsmith.classification.intervals import bootstrap_interval, share_interval
from flawsmith.classification.metrics import average_precision


@pytest.mark.parametrize(
    ("successes", "count"), [(0, 1), (0, 16), (16, 16), (13, 16), (5, 105), (400, 894), (49_000, 50_000)]
)
def test_intervals_of_shares_equal_scipys_clopper_pearson(successes: int, count: int) -> None:
    found = share_interval(successes, count)
    expected = binomtest(successes, count).proportion_ci(0.95, method="exact")
    assert found is not None
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_nothing_counted_is_no_interval() -> None:
    assert share_interval(0, 0) is None


def test_bootstrap_covers_what_fresh_samples_scatter_over() -> None:
    generator = np.random.default_rng(0)

    def sample() -> tuple[np.ndarray, np.ndarray]:
        labels = np.repeat([0, 1], [100, 30])
        return labels, generator.normal(labels * 1.5)

    truth = np.mean([average_precision_score(*sample()) for _ in range(500)])
    intervals = [bootstrap_interval(average_precision, *sample()) for _ in range(40)]
    covered = sum(interval is not None and interval.low <= truth <= interval.high for interval in intervals)
    assert covered >= 33  # 38 expected of 40; the percentile interval is known to be a little narrow
    spread = np.std([average_precision_score(*sample()) for _ in range(500)])
    widths = [interval.high - interval.low for interval in intervals if interval is not None]
    assert np.mean(widths) == pytest.approx(2 * 1.96 * spread, rel=0.25)


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1], [1, 0, 0]])
def test_too_few_images_are_no_interval(labels: list[int]) -> None:
    assert bootstrap_interval(average_precision, np.array(labels), np.linspace(0, 1, 3)) is None
