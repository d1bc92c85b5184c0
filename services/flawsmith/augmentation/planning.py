"""Which normals a batch draws into, and with which seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flawsmith.common.errors import FailedPreconditionError
from flawsmith.common.manifests import ImageRecord, Label, Source, Split


@dataclass(frozen=True)
class Draft:
    """One image to make: its place in the batch and the normal that it is drawn into."""

    index: int
    parent: ImageRecord


def plan(images: Sequence[ImageRecord], count: int, seed: int) -> list[Draft]:
    """Spread `count` defects evenly over the train normals in a seeded order.

    Raises FailedPreconditionError (NO_NORMALS). Validation and test images are never drawn into.
    """
    normals = [
        record
        for record in images
        if record.split == Split.TRAIN and record.label == Label.NORMAL and record.source == Source.REAL
    ]
    if not normals:
        raise FailedPreconditionError(
            "NO_NORMALS", "the import has no normals in its train split to draw defects into; import some"
        )
    rng = np.random.default_rng(seed)
    order: list[int] = []
    while len(order) < count:
        order.extend(rng.permutation(len(normals)).tolist())
    return [Draft(index, normals[chosen]) for index, chosen in enumerate(order[:count])]


def image_generator(seed: int, index: int) -> np.random.Generator:
    """The random generator of a batch's index-th image; independent of all others, so any can be made again alone."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index])))
