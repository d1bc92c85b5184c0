"""Both sides of the training benchmark do what they say, on the smallest network."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.training import _compare
from benchmarks.training_sides import SIDES, Setting

SETTING = Setting(height=32, width=32, batch_size=4, backbone="resnet18", threads=1)


@pytest.mark.parametrize("name", sorted(SIDES))
def test_a_round_gives_clock_and_processor_seconds_of_each_step(name: str) -> None:
    found = np.array(SIDES[name](SETTING)(2))
    assert found.shape == (2, 2)
    assert (found > 0).all()
    # One thread computes no more than the clock allows.
    assert (found[:, 1] <= found[:, 0] * 1.5 + 0.05).all()


def test_ratio_is_ours_over_the_plain_loops() -> None:
    found = _compare({"ours": [1.0, 1.0, 4.0], "plain": [2.0, 2.0, 2.0]})
    assert found["ratio"] == 0.5
    assert found["ratio_of_neighbours"]["median"] == 0.5
