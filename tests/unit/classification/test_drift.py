"""The chart behaves as Lowry et al. say: within its limit without drift, and far above it soon after a shift."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from flawsmith.classification.drift import COMPONENTS, FALSE_ALARMS, DriftMonitor, EmbeddingStatistics, limit_of

DIMENSIONS = 64
SPREAD = np.geomspace(3.0, 0.1, DIMENSIONS)


def embeddings(generator: np.random.Generator, count: int, shift: float = 0.0) -> np.ndarray:
    """Normally distributed, of falling spread; shift: standard deviations, along the first axis."""
    found = generator.normal(size=(count, DIMENSIONS)) * SPREAD
    found[:, 0] += shift * SPREAD[0]
    return found.astype(np.float32)


@pytest.fixture
def statistics() -> EmbeddingStatistics:
    found = EmbeddingStatistics.of(embeddings(np.random.default_rng(0), 128))
    assert found is not None
    return found


def values(statistics: EmbeddingStatistics, seen: np.ndarray) -> np.ndarray:
    monitor = DriftMonitor(statistics)
    return np.array([monitor.add(embedding) for embedding in seen])


@pytest.mark.parametrize(("components", "images"), [(1, 8), (1, 15), (2, 16), (5, 40), (16, 128)])
def test_the_limit_is_scipys_of_hotellings_t_squared(components: int, images: int) -> None:
    quantile = stats.f.isf(FALSE_ALARMS, components, images - components)
    expected = components * (images - 1) / (images - components) * quantile
    assert limit_of(components, images) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("components", "images"), [(1, 8), (3, 24), (8, 64)])
def test_without_drift_one_image_in_a_thousand_is_above_one_whatever_the_number_of_components(
    components: int, images: int
) -> None:
    """As many dimensions as components: nothing is chosen among them, so the limit holds exactly."""
    generator, runs = np.random.default_rng(components), 5000
    above = 0
    for _ in range(runs):
        normals, seen = np.split(generator.normal(size=(images + 1, components)), [images])
        found = EmbeddingStatistics.of(normals)
        assert found is not None
        assert len(found.variances) == components
        above += values(found, seen)[0] > 1.0
    low, high = stats.binom.interval(0.9999, runs, FALSE_ALARMS)
    assert low <= above <= high


@pytest.mark.parametrize("images", [8, 40, 128])
def test_without_drift_hardly_any_image_is_above_one_where_components_are_chosen(images: int) -> None:
    generator = np.random.default_rng(images)
    runs = []
    for _ in range(30):
        found = EmbeddingStatistics.of(embeddings(generator, images))
        assert found is not None
        assert len(found.variances) == min(COMPONENTS, images // 8)
        runs.append(values(found, embeddings(generator, 200)))
    assert np.mean(np.concatenate(runs) > 1.0) < 2 * FALSE_ALARMS


def test_a_shift_shows_within_some_images(statistics: EmbeddingStatistics) -> None:
    generator = np.random.default_rng(7)
    monitor = DriftMonitor(statistics)
    for embedding in embeddings(generator, 100):
        monitor.add(embedding)
    shifted = [monitor.add(embedding) for embedding in embeddings(generator, 60, shift=2.0)]
    assert shifted[-1] > 2.0
    assert max(shifted) == pytest.approx(shifted[-1], rel=0.5)


def test_statistics_survive_storage(statistics: EmbeddingStatistics) -> None:
    loaded = EmbeddingStatistics.load(statistics.save())
    seen = embeddings(np.random.default_rng(3), 5)
    np.testing.assert_array_equal(values(loaded, seen), values(statistics, seen))


def test_too_few_or_equal_images_say_nothing() -> None:
    assert EmbeddingStatistics.of(embeddings(np.random.default_rng(0), 7)) is None
    assert EmbeddingStatistics.of(np.ones((20, DIMENSIONS), np.float32)) is None


def test_before_the_first_image_there_is_no_drift(statistics: EmbeddingStatistics) -> None:
    assert DriftMonitor(statistics).value == 0.0
