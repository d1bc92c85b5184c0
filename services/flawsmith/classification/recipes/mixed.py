"""Our own recipe: labels of all images, and masks of those that have one (mixed supervision, Bozic et al. 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flawsmith.classification.backbones import Backbone
from flawsmith.classification.recipes.base import Batch, Recipe, random_flips, sgd

if TYPE_CHECKING:
    from torch import Tensor

    from flawsmith.classification.model import ResNetClassifier


def _network(backbone: Backbone) -> ResNetClassifier:
    from flawsmith.classification.model import SegmentingClassifier

    return SegmentingClassifier(backbone)


def mixed_loss(network: ResNetClassifier, batch: Batch) -> Tensor:
    """Binary cross-entropy of the labels, plus that of the cells and a Dice loss where masks are known.

    A synthetic defect's mask is known because it was drawn by it, a normal's because it is empty; a real defect without
    a mask teaches by its label only. Cells are 8 x 8 pixels, and one that holds any pixel of a mask is a defect's, so
    that thin scratches survive. The Dice loss (Milletari et al. 2016) is averaged over images whose mask is not empty:
    it weighs small defects as large ones, where cross-entropy sees mostly background.
    """
    from torch.nn import functional

    from flawsmith.classification.model import SegmentingClassifier

    assert isinstance(network, SegmentingClassifier)
    assert batch.masks is not None
    assert batch.has_mask is not None
    logits, cells = network.logits_and_map(batch.images)
    loss = functional.binary_cross_entropy_with_logits(logits.squeeze(1), batch.labels)
    targets = functional.adaptive_max_pool2d((batch.masks > 0).float()[:, None], tuple(cells.shape[1:])).squeeze(1)
    known = batch.has_mask.float()
    by_image = functional.binary_cross_entropy_with_logits(cells, targets, reduction="none").mean((1, 2))
    # A sum over the batch's size, not over the known ones: the label's weight must not depend on chance.
    loss = loss + (by_image * known).sum() / len(known)
    found, area = cells.sigmoid(), targets.sum((1, 2))
    dice = 1.0 - 2.0 * (found * targets).sum((1, 2)) / (found.sum((1, 2)) + area).clamp(min=1.0)
    return loss + (dice * known * (area > 0)).sum() / len(known)


# As `in-and-out` but for what masks allow: the network, its loss, and defects pasted into normals. Without pasting, a
# network that sees five photographs of defects some hundred times each learns their surfaces by heart, and misses
# cracks that are plain to see on another.
MIXED = Recipe(
    name="mixed",
    epochs=50,
    batch_size=5,
    learning_rate=0.01,
    optimiser=sgd,
    augment=random_flips,
    network=_network,
    loss=mixed_loss,
    warm_up=0.05,
    decay_from=0.5,
    uses_masks=True,
    pasted=0.6,
)
