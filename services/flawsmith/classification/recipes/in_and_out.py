"""The recipe of In&Out's experiments on KolektorSDD2."""

from __future__ import annotations

from flawsmith.classification.recipes.base import Recipe, classifier, label_loss, random_flips, sgd

# Stated in the paper: SGD, learning rate 0.01, batch 5, 50 epochs of balanced sampling, binary cross-entropy with
# logits, no learning-rate schedule mentioned. Not stated, so ours: momentum 0.9, flips, a short warm-up and
# a cosine decay over the second half. The schedule matters when a run has only some hundred steps: with a constant
# rate the average precision jumps from one step to the next, and with a longer decay the network stays undertrained.
IN_AND_OUT = Recipe(
    name="in-and-out",
    epochs=50,
    batch_size=5,
    learning_rate=0.01,
    optimiser=sgd,
    augment=random_flips,
    network=classifier,
    loss=label_loss,
    warm_up=0.05,
    decay_from=0.5,
)
