"""Balanced sampling of the KolektorSDD2 protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flawsmith.common.errors import FailedPreconditionError


class BalancedSampler:
    """An endless stream of image indices: per epoch every positive once and as many negatives.

    Negatives are drawn without replacement within an epoch: those used least so far first, ties at random; the
    first epoch's are therefore the head of a random permutation. The segmentation-decision network's code draws
    them with probability `(1 - f/max(f) - median + 1)^(4 ln N_neg)` instead, f being how often each was used: with
    thousands of negatives that exponent is above 30, so it too takes the least used ones almost surely. Both cover
    all negatives before any is used twice (exactly here, almost surely there); ours has no weights to underflow.
    Where negatives are fewer than positives, an epoch holds every negative as evenly often as possible.

    Within an epoch a positive and a negative take turns, each kind in random order, so that every batch holds both as
    evenly as it can: of plainly shuffled batches of five about one in 16 holds one kind only, and its statistics
    mislead batch normalisation. Batches run across the ends of epochs, so that each step sees `batch_size` images.
    Deterministic by seed.
    """

    def __init__(self, positives: Sequence[int], negatives: Sequence[int], seed: int) -> None:
        """positives, negatives: indices. Raises FailedPreconditionError NO_POSITIVES, NO_NORMALS."""
        if not positives:
            raise FailedPreconditionError(
                "NO_POSITIVES",
                "the training split has no defect images, so there is nothing to tell normals from; add synthetic "
                "defects, or choose a regime with real ones",
            )
        if not negatives:
            raise FailedPreconditionError(
                "NO_NORMALS", "the training split has no normal images; import some before training"
            )
        self._positives = np.asarray(positives, dtype=np.int64)
        self._negatives = np.asarray(negatives, dtype=np.int64)
        self._used = np.zeros(len(negatives), dtype=np.int64)
        self._generator = np.random.default_rng(seed)
        self._queue = np.empty(0, dtype=np.int64)

    @property
    def epoch_size(self) -> int:
        """Images an epoch."""
        return 2 * len(self._positives)

    def draw_epoch(self) -> np.ndarray:
        """Indices of one epoch, int64: positive, negative, positive, ..."""
        chosen: list[np.ndarray] = []
        wanted = len(self._positives)
        while wanted:
            ties = self._generator.random(len(self._used))
            picked = np.lexsort((ties, self._used))[:wanted]
            self._used[picked] += 1
            chosen.append(self._negatives[picked])
            wanted -= len(picked)
        pairs = [self._generator.permutation(self._positives), self._generator.permutation(np.concatenate(chosen))]
        return np.stack(pairs, axis=1).ravel()

    def draw(self, count: int) -> np.ndarray:
        """The next `count` indices, int64."""
        while len(self._queue) < count:
            self._queue = np.concatenate([self._queue, self.draw_epoch()])
        drawn, self._queue = self._queue[:count], self._queue[count:]
        return drawn

    def state(self) -> dict[str, Any]:
        """Everything that the next draw depends on, as plain Python values."""
        return {
            "used": self._used.tolist(),
            "queue": self._queue.tolist(),
            "generator": self._generator.bit_generator.state,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue as the sampler of that state (of the same positives and negatives) would."""
        self._used = np.asarray(state["used"], dtype=np.int64)
        self._queue = np.asarray(state["queue"], dtype=np.int64)
        self._generator.bit_generator.state = state["generator"]
