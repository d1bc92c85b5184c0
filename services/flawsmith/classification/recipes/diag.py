"""The recipe of DIAG, the follow-up paper by In&Out's authors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from flawsmith.classification.recipes.base import Recipe, classifier, label_loss, random_flips

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer


def _adam(parameters: Iterable[nn.Parameter], rate: float) -> Optimizer:
    from torch.optim import Adam

    return Adam(parameters, lr=rate)


# Stated: ImageNet's mean and standard deviation (every network of ours normalises with them), Adam, learning rate 1e-4,
# batch 32, 30 epochs, and ImageNet weights, which a request gives as its initial weights: no recipe downloads any.
DIAG = Recipe(
    name="diag",
    epochs=30,
    batch_size=32,
    learning_rate=1e-4,
    optimiser=_adam,
    augment=random_flips,
    network=classifier,
    loss=label_loss,
    warm_up=0.05,
    decay_from=0.5,
)
