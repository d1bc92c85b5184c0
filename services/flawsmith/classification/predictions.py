"""What a classifier says of each image of a split, as a table that other tools read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flawsmith.classification.calibration import Calibration
from flawsmith.classification.thresholds import Threshold
from flawsmith.common.manifests import Label, Source, Split


@dataclass(frozen=True)
class Image:
    """What is known of an image without looking at it. sha256: of its file."""

    sha256: str
    original_path: str
    split: Split
    label: Label
    source: Source
    defect_type: str


@dataclass(frozen=True)
class Predictions:
    """images: N. logits, scores: float32, N; scores are probabilities of a defect, as the network puts them."""

    images: tuple[Image, ...]
    logits: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labels(self) -> np.ndarray:
        """0/1, N: 1 for a defect."""
        return np.array([image.label is Label.DEFECT for image in self.images], dtype=np.int64)

    @property
    def real(self) -> np.ndarray:
        """bool, N: not synthetic."""
        return np.array([image.source is Source.REAL for image in self.images], dtype=bool)

    def take(self, chosen: np.ndarray | Sequence[int]) -> Predictions:
        """Some of them. chosen: indices, or bool, N."""
        rows = np.arange(len(self.images))[np.asarray(chosen)]
        return Predictions(tuple(self.images[row] for row in rows), self.logits[rows], self.scores[rows])

    def write_parquet(self, path: Path, threshold: Threshold, calibration: Calibration | None) -> None:
        """One row an image: sha256, path, split, label, source, defect_type, logit, score, calibrated (null without a
        calibration) and verdict at the threshold."""
        import pyarrow
        from pyarrow import parquet

        calibrated = calibration.probabilities(self.logits) if calibration else None
        columns = {
            "sha256": pyarrow.array([image.sha256 for image in self.images], pyarrow.string()),
            "path": pyarrow.array([image.original_path for image in self.images], pyarrow.string()),
            "split": pyarrow.array([image.split.value for image in self.images], pyarrow.string()),
            "label": pyarrow.array([image.label.value for image in self.images], pyarrow.string()),
            "source": pyarrow.array([image.source.value for image in self.images], pyarrow.string()),
            "defect_type": pyarrow.array([image.defect_type for image in self.images], pyarrow.string()),
            "logit": pyarrow.array(self.logits.astype(np.float32)),
            "score": pyarrow.array(self.scores.astype(np.float32)),
            "calibrated": pyarrow.nulls(len(self), pyarrow.float64())
            if calibrated is None
            else pyarrow.array(calibrated),
            "verdict": pyarrow.array([threshold.verdict(float(score)) for score in self.scores], pyarrow.string()),
        }
        parquet.write_table(pyarrow.table(columns), path)
