"""Fixtures of the classification tests."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from flawsmith.classification.spec import TrainingImage
from flawsmith.common.images import encode_png
from flawsmith.common.manifests import Label, Source, Split

from .support import picture


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingImage, ...]:
    """Train: 8 normals, 6 real and 4 synthetic defects; validation and test: 6 normals, 4 real defects each."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(7)
    images: list[TrainingImage] = []
    for split, label, source, count in (
        (Split.TRAIN, Label.NORMAL, Source.REAL, 8),
        (Split.TRAIN, Label.DEFECT, Source.REAL, 6),
        (Split.TRAIN, Label.DEFECT, Source.IN_DISTRIBUTION, 2),
        (Split.TRAIN, Label.DEFECT, Source.OUT_OF_DISTRIBUTION, 2),
        (Split.VALIDATION, Label.NORMAL, Source.REAL, 6),
        (Split.VALIDATION, Label.DEFECT, Source.REAL, 4),
        (Split.TEST, Label.NORMAL, Source.REAL, 6),
        (Split.TEST, Label.DEFECT, Source.REAL, 4),
    ):
        for _ in range(count):
            data = encode_png(picture(label is Label.DEFECT, generator))
            path = folder / f"{len(images)}.png"
            path.write_bytes(data)
            digest = hashlib.sha256(data).hexdigest()
            images.append(TrainingImage(path=path, sha256=digest, label=label, source=source, split=split))
    return tuple(images)
