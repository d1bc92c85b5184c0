"""What a recipe is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # the API server knows the recipes by name, and holds no torch
    from torch import nn
    from torch.optim import Optimizer


@dataclass(frozen=True)
class Recipe:
    """How a classifier is trained.

    epochs, batch_size, learning_rate: used where the request names none. optimiser: (parameters, learning rate).
    warm_up: share of the steps over which the learning rate rises linearly. decay_from: share after which it falls as a
    half cosine towards zero; constant in between.
    augment: (uint8 batch N x H x W x 3, generator) -> batch of the same shape.
    """

    name: str
    epochs: int
    batch_size: int
    learning_rate: float
    optimiser: Callable[[Iterable[nn.Parameter], float], Optimizer]
    augment: Callable[[np.ndarray, np.random.Generator], np.ndarray]
    warm_up: float
    decay_from: float

    def learning_rate_factor(self, step: int, steps: int) -> float:
        """Multiplier of the learning rate at a step (0-based) of `steps`; above 0 and at most 1."""
        rising, constant = max(1, round(self.warm_up * steps)), round(self.decay_from * steps)
        if step < rising:
            return (step + 1) / rising
        if step < constant:
            return 1.0
        start = max(rising, constant)
        return 0.5 * (1.0 + math.cos(math.pi * (step - start + 0.5) / (steps - start)))


def random_flips(batch: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Flip each image of uint8 N x H x W x 3 left-right and upside down, each with p = 0.5."""
    flipped = batch.copy()
    for index, (horizontal, vertical) in enumerate(generator.random((len(batch), 2)) < 0.5):
        image = batch[index]
        image = image[:, ::-1] if horizontal else image
        flipped[index] = image[::-1] if vertical else image
    return flipped
