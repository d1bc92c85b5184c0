"""What a recipe is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flawsmith.classification.backbones import Backbone

if TYPE_CHECKING:  # the API server knows the recipes by name, and holds no torch
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from flawsmith.classification.model import ResNetClassifier


@dataclass(frozen=True)
class Batch:
    """What a step learns from.

    images: uint8, N x H x W x 3. labels: float32, N, 1 for a defect. masks: uint8, N x H x W, above 0 on the defect,
    and has_mask: bool, N, False where no mask is known; both None for recipes that use none.
    """

    images: Tensor
    labels: Tensor
    masks: Tensor | None = None
    has_mask: Tensor | None = None


@dataclass(frozen=True)
class Recipe:
    """How a classifier is trained.

    epochs, batch_size, learning_rate, backbone: used where the request names none. optimiser: (parameters, learning
    rate). network: makes one with random weights for a backbone. loss: (network, batch) -> scalar, averaged over
    images. uses_masks: whether batches hold masks. pasted: probability that in the place of a defect with a mask
    comes a real one that is pasted into a normal (`pasting.py`).
    warm_up: share of the steps over which the learning rate rises linearly. decay_from: share after which it falls as a
    half cosine towards zero; constant in between.
    augment: (uint8 batch N x H x W x C, generator) -> batch of the same shape. Channels are RGB, and the mask as a
    fourth where masks are used, which may only be moved together with the others.
    """

    name: str
    epochs: int
    batch_size: int
    learning_rate: float
    optimiser: Callable[[Iterable[nn.Parameter], float], Optimizer]
    augment: Callable[[np.ndarray, np.random.Generator], np.ndarray]
    network: Callable[[Backbone], ResNetClassifier]
    loss: Callable[[ResNetClassifier, Batch], Tensor]
    warm_up: float
    decay_from: float
    uses_masks: bool = False
    pasted: float = 0.0
    backbone: Backbone = Backbone.RESNET50

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
    """Flip each image of uint8 N x H x W x C left-right and upside down, each with p = 0.5."""
    flipped = batch.copy()
    for index, (horizontal, vertical) in enumerate(generator.random((len(batch), 2)) < 0.5):
        image = batch[index]
        image = image[:, ::-1] if horizontal else image
        flipped[index] = image[::-1] if vertical else image
    return flipped


def classifier(backbone: Backbone) -> ResNetClassifier:
    """A network that learns from labels."""
    from flawsmith.classification.model import ResNetClassifier

    return ResNetClassifier(backbone)


def label_loss(network: ResNetClassifier, batch: Batch) -> Tensor:
    """Binary cross-entropy with logits."""
    from torch.nn import functional

    return functional.binary_cross_entropy_with_logits(network.logits(batch.images).squeeze(1), batch.labels)


def sgd(parameters: Iterable[nn.Parameter], rate: float) -> Optimizer:
    """Stochastic gradient descent with momentum 0.9."""
    from torch.optim import SGD

    return SGD(parameters, lr=rate, momentum=0.9)
