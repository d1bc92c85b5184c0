"""What of the driver needs no platform: budgets and pools. The rest is run in tests/integration/test_bench.py."""

import itertools

import pytest

from flawsmith.bench.cells import Regime
from flawsmith.bench.driver import equal_steps, pool_parts, require_whole
from flawsmith.common.errors import FailedPreconditionError
from flawsmith.generation.v1 import generation_pb2


@pytest.mark.parametrize(
    ("regime", "real_defects", "steps"),
    # KolektorSDD2 has 246 positives in train: 50 epochs of 2 x (120 + 0 | 5 | 246) images, five a step.
    [(Regime.ZERO, 246, 2400), (Regime.FEW, 246, 2500), (Regime.FULL, 246, 7320), (Regime.FEW, 3, 2460)],
)
def test_equal_steps_are_those_of_the_papers_longest_training(regime: Regime, real_defects: int, steps: int) -> None:
    assert equal_steps(regime, None, real_defects) == steps
    assert equal_steps(regime, 600, real_defects) == 600


@pytest.mark.parametrize("counts", [[80], [40, 80], [80, 100, 120, 40, 50, 60], [0, 3, 3], []])
def test_every_arm_draws_the_first_images_of_one_pool(counts: list[int]) -> None:
    parts = pool_parts(counts)
    images = [range(first, first + count) for first, count in parts]
    assert list(itertools.chain(*images)) == list(range(max(counts, default=0)))
    for count in filter(None, counts):
        taken = [part for part in images if part.start < count]
        assert sum(map(len, taken)) == count


def test_an_arm_whose_failures_were_removed_is_not_compared() -> None:
    batch = generation_pb2.Batch(name="products/p/batches/b", image_count=6)
    require_whole(batch, 6)
    with pytest.raises(FailedPreconditionError, match="holds 6 of 40 defects") as refused:
        require_whole(batch, 40)
    assert refused.value.reason == "BENCH_TOO_FEW_DRAWN"
