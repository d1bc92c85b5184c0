"""The chart behaves as Lowry et al. say: near its expectation without drift, and far above it soon after a shift."""

from __future__ import annotations

import numpy as np
import pytest

from flawsmith.classification.drift import COMPONENTS, DriftMonitor, EmbeddingStatistics

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


def test_without_drift_it_is_about_one(statistics: EmbeddingStatistics) -> None:
    assert len(statistics.variances) == COMPONENTS
    runs = [values(statistics, embeddings(np.random.default_rng(seed), 200)) for seed in range(1, 21)]
    assert 0.7 < np.mean([run[-1] for run in runs]) < 1.5
    assert 0.7 < np.mean([run[0] for run in runs]) < 1.5  # from the first image on
    assert np.mean(np.concatenate(runs) > 2.5) < 0.02


def test_a_shift_shows_within_some_images(statistics: EmbeddingStatistics) -> None:
    generator = np.random.default_rng(7)
    monitor = DriftMonitor(statistics)
    for embedding in embeddings(generator, 100):
        monitor.add(embedding)
    shifted = [monitor.add(embedding) for embedding in embeddings(generator, 60, shift=2.0)]
    assert shifted[-1] > 5.0
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
