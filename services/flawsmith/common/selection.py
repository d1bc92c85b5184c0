"""Which real images a regime may use (In&Out, section "Regimes")."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flawsmith.common.errors import FailedPreconditionError, FieldViolation
from flawsmith.common.manifests import ImageRecord, Label, Regime, Source, Split

FEW_SHOT_POSITIVES = 5
ZERO_SHOT_NEGATIVES = 50


def real_images(images: Sequence[ImageRecord], split: Split, label: Label) -> list[ImageRecord]:
    """Real images of one split and label, in order of their hashes, so that a manifest's order decides nothing."""
    chosen = {
        record.image.sha256: record
        for record in images
        if record.split == split and record.source == Source.REAL and record.label == label
    }
    return [chosen[digest] for digest in sorted(chosen)]


def train_images(images: Sequence[ImageRecord], label: Label) -> list[ImageRecord]:
    """`real_images` of train."""
    return real_images(images, Split.TRAIN, label)


def select_positives(images: Sequence[ImageRecord], regime: Regime, seed: int) -> list[ImageRecord]:
    """Real positives of train that the regime allows: none, five at random, or all.

    Fewer than five are all taken. Raises FailedPreconditionError (NO_POSITIVES) when the regime needs positives and
    train has none.
    """
    if regime == Regime.ZERO_SHOT:
        return []
    positives = train_images(images, Label.DEFECT)
    if not positives:
        raise FailedPreconditionError(
            "NO_POSITIVES",
            f"the import has no defects in its train split, which the {regime.value} regime needs; use the zero_shot "
            "regime, or import a data set with defects and masks",
            fields=[FieldViolation("regime", "zero_shot works without positives")],
        )
    if regime == Regime.FULL_SHOT or len(positives) <= FEW_SHOT_POSITIVES:
        return positives
    chosen = np.random.default_rng(seed).choice(len(positives), size=FEW_SHOT_POSITIVES, replace=False)
    return [positives[index] for index in sorted(chosen.tolist())]


def select_fine_tuning(images: Sequence[ImageRecord], regime: Regime, seed: int) -> list[ImageRecord]:
    """Images that an adapter of the regime is tuned on: 50 random negatives (zero-shot) or the positives.

    Raises FailedPreconditionError: NO_POSITIVES, NO_NORMALS.
    """
    if regime != Regime.ZERO_SHOT:
        return select_positives(images, regime, seed)
    normals = train_images(images, Label.NORMAL)
    if not normals:
        raise FailedPreconditionError("NO_NORMALS", "the import has no normals in its train split; import some")
    count = min(ZERO_SHOT_NEGATIVES, len(normals))
    chosen = np.random.default_rng(seed).choice(len(normals), size=count, replace=False)
    return [normals[index] for index in sorted(chosen.tolist())]
