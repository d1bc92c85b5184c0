import numpy as np
import pytest
import torch
from torch import nn

from flawsmith.classification.recipes import RECIPES
from flawsmith.classification.recipes.base import random_flips


def test_published_hyper_parameters() -> None:
    ours, follow_up = RECIPES["in-and-out"], RECIPES["diag"]
    assert (ours.epochs, ours.batch_size, ours.learning_rate) == (50, 5, 0.01)
    assert (follow_up.epochs, follow_up.batch_size, follow_up.learning_rate) == (30, 32, 1e-4)
    parameter = nn.Parameter(torch.zeros(1))
    sgd, adam = ours.optimiser([parameter], 0.01), follow_up.optimiser([parameter], 1e-4)
    assert isinstance(sgd, torch.optim.SGD)
    assert sgd.param_groups[0]["momentum"] == 0.9
    assert isinstance(adam, torch.optim.Adam)


@pytest.mark.parametrize("name", sorted(RECIPES))
@pytest.mark.parametrize("steps", [1, 2, 10, 100])
def test_learning_rate_reaches_the_recipes_and_is_never_zero_nor_above(name: str, steps: int) -> None:
    factors = [RECIPES[name].learning_rate_factor(step, steps) for step in range(steps)]
    assert max(factors) == pytest.approx(1.0)
    assert min(factors) > 0.0


def test_flips_are_the_four_mirror_images_equally_often() -> None:
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    batch = random_flips(np.stack([image] * 4000), np.random.default_rng(0))
    mirrored = [image, image[::-1], image[:, ::-1], image[::-1, ::-1]]
    counts = [int((batch == version).all(axis=(1, 2, 3)).sum()) for version in mirrored]
    assert sum(counts) == 4000
    assert min(counts) > 850  # 1000 expected; 5.5 standard deviations
