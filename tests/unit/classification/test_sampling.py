import json

import numpy as np
import pytest

from flawsmith.classification.sampling import BalancedSampler
from flawsmith.common.errors import FailedPreconditionError

POSITIVES = tuple(range(5))
NEGATIVES = tuple(range(100, 123))


def test_epoch_holds_every_positive_once_and_as_many_different_negatives() -> None:
    sampler = BalancedSampler(POSITIVES, NEGATIVES, seed=1)
    for _ in range(20):
        epoch = sampler.draw_epoch()
        positives, negatives = epoch[epoch < 100], epoch[epoch >= 100]
        assert sorted(positives) == list(POSITIVES)
        assert len(negatives) == 5
        assert len(set(negatives)) == 5


def test_every_negative_is_used_before_any_is_used_twice() -> None:
    sampler = BalancedSampler(POSITIVES, NEGATIVES, seed=1)
    for epoch in range(1, 60):
        sampler.draw_epoch()
        used = np.asarray(sampler.state()["used"])
        assert used.sum() == 5 * epoch
        assert used.max() - used.min() <= 1


def test_first_negatives_are_a_uniform_random_draw() -> None:
    counts = np.zeros(len(NEGATIVES))
    for seed in range(2000):
        epoch = BalancedSampler(POSITIVES, NEGATIVES, seed).draw_epoch()
        counts[epoch[epoch >= 100] - 100] += 1
    expected = 2000 * 5 / len(NEGATIVES)
    # chi-square with 22 degrees of freedom: 48.3 is the 99.9 % quantile.
    assert ((counts - expected) ** 2 / expected).sum() < 48.3


def test_fewer_negatives_than_positives_are_used_evenly() -> None:
    epoch = BalancedSampler(tuple(range(7)), (100, 101, 102), seed=0).draw_epoch()
    counts = np.bincount(epoch[epoch >= 100] - 100)
    assert counts.sum() == 7
    assert counts.max() - counts.min() <= 1


def test_every_batch_holds_both_kinds_evenly_in_another_order_each_epoch() -> None:
    sampler = BalancedSampler(POSITIVES, NEGATIVES, seed=0)
    batches = [sampler.draw(5) for _ in range(40)]
    assert {int((batch < 100).sum()) for batch in batches} == {2, 3}
    orders = {tuple(epoch[epoch < 100]) for epoch in (sampler.draw_epoch() for _ in range(20))}
    assert len(orders) > 10


def test_same_seed_same_stream_other_seed_another() -> None:
    draws = [BalancedSampler(POSITIVES, NEGATIVES, seed).draw(50).tolist() for seed in (3, 3, 4)]
    assert draws[0] == draws[1] != draws[2]


def test_batches_do_not_change_the_stream() -> None:
    whole = BalancedSampler(POSITIVES, NEGATIVES, 3).draw(60)
    sampler = BalancedSampler(POSITIVES, NEGATIVES, 3)
    np.testing.assert_array_equal(whole, np.concatenate([sampler.draw(count) for count in (7, 1, 32, 20)]))


def test_restored_sampler_continues_the_stream() -> None:
    sampler = BalancedSampler(POSITIVES, NEGATIVES, 3)
    sampler.draw(33)
    state = json.loads(json.dumps(sampler.state()))
    expected = sampler.draw(40)
    restored = BalancedSampler(POSITIVES, NEGATIVES, 99)
    restored.restore(state)
    np.testing.assert_array_equal(restored.draw(40), expected)


@pytest.mark.parametrize(("positives", "negatives", "reason"), [((), (1,), "NO_POSITIVES"), ((1,), (), "NO_NORMALS")])
def test_a_missing_class_is_an_error(positives: tuple[int, ...], negatives: tuple[int, ...], reason: str) -> None:
    with pytest.raises(FailedPreconditionError) as error:
        BalancedSampler(positives, negatives, 0)
    assert error.value.reason == reason
