"""Which drawn defects are kept."""

from __future__ import annotations

import numpy as np
import pytest

from flawsmith.generation.failure_removal import MIN_REFERENCES, calibrate, judge


def around(direction: np.ndarray, spread: float, count: int, seed: int) -> np.ndarray:
    """Unit vectors about a direction."""
    vectors = direction + np.random.default_rng(seed).normal(0, spread, (count, len(direction)))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


DARK, BRIGHT = np.eye(8)[0], np.eye(8)[1]


@pytest.mark.parametrize("count", [MIN_REFERENCES, 20, 60])
def test_95_percent_of_held_out_real_defects_pass(count: int) -> None:
    real = around(DARK, 0.1, count, 1)
    calibration = calibrate(real)
    assert calibration.threshold is not None
    held_out = [calibrate(np.delete(real, index, axis=0)).similarities(real[index : index + 1])[0]
                for index in range(count)]  # fmt: skip
    assert np.mean(np.array(held_out) >= calibration.threshold - 1e-6) >= 0.95
    # No lower than it must be: the next higher value would fail too many, or is the least of all.
    if count >= 20:
        assert np.mean(np.array(held_out) > calibration.threshold + 1e-6) <= 0.95


def test_unchanged_and_unlike_drawings_fail() -> None:
    calibration = calibrate(around(DARK, 0.1, 20, 1))
    features = np.concatenate([around(DARK, 0.05, 1, 2), around(BRIGHT, 0.05, 1, 3), around(DARK, 0.05, 1, 4)])
    kept, unlike, unchanged = judge([30.0, 30.0, 1.0], 4.0, features, calibration)
    assert (kept.failure, unlike.failure, unchanged.failure) == ("", "unlike", "unchanged")
    assert kept.similarity is not None
    assert unlike.similarity is not None
    assert calibration.threshold is not None
    assert kept.similarity >= calibration.threshold > unlike.similarity


@pytest.mark.parametrize("count", [0, MIN_REFERENCES - 1])
def test_with_few_real_defects_only_the_change_counts_and_it_says_so(count: int) -> None:
    calibration = calibrate(around(DARK, 0.1, count, 1) if count else np.zeros((0, 0), np.float32))
    assert calibration.threshold is None
    assert f"needs {MIN_REFERENCES} of them, and there are {count}" in calibration.note
    verdicts = judge([30.0, 1.0], 4.0, np.zeros((0, 0), np.float32), calibration)
    assert [(verdict.failure, verdict.similarity) for verdict in verdicts] == [("", None), ("unchanged", None)]
