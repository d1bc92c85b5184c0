"""The recipe of In&Out's experiments on KolektorSDD2."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from flawsmith.classification.recipes.base import Recipe, random_flips

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer


def _sgd(parameters: Iterable[nn.Parameter], rate: float) -> Optimizer:
    from torch.optim import SGD

    return SGD(parameters, lr=rate, momentum=0.9)


# Stated in the paper: SGD, learning rate 0.01, batch 5, 50 epochs of balanced sampling, binary cross-entropy with
# logits, no learning-rate schedule mentioned. Not stated, so ours: momentum 0.9, flips, a short warm-up and
# a cosine decay over the second half. The schedule matters when a run has only some hundred steps: with a constant
# rate the average precision jumps from one step to the next, and with a longer decay the network stays undertrained.
IN_AND_OUT = Recipe(
    name="in-and-out",
    epochs=50,
    batch_size=5,
    learning_rate=0.01,
    optimiser=_sgd,
    augment=random_flips,
    warm_up=0.05,
    decay_from=0.5,
)
