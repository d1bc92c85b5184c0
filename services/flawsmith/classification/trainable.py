"""Whether a data set can train a classifier at all."""

from __future__ import annotations

from collections.abc import Sequence

from flawsmith.classification.spec import TrainingParameters
from flawsmith.classification.thresholds import check_rule, needs_normals
from flawsmith.common.errors import FailedPreconditionError, FieldViolation
from flawsmith.common.manifests import Label, Source, Split


def check_trainable(images: Sequence[tuple[Label, Source, Split]], parameters: TrainingParameters) -> None:
    """Refuse a data set that cannot be trained on, before any work.

    Raises FailedPreconditionError DATASET_NOT_TRAINABLE listing all that is missing (normals or defects in train,
    normals in validation for the threshold), or TOO_FEW_POSITIVES for a rule about real defects.
    """
    train = [
        (label, source)
        for label, source, split in images
        if split is Split.TRAIN and (parameters.include_synthetic or source is Source.REAL)
    ]
    problems: list[FieldViolation] = []
    if not any(label is Label.DEFECT for label, _ in train):
        problems.append(
            FieldViolation(
                "dataset.train.defect",
                "no defects to train on"
                + (
                    "; add synthetic ones, or import real ones"
                    if parameters.include_synthetic
                    else ": without its synthetic images the data set has none (the zero-shot regime has no baseline)"
                ),
            )
        )
    if not any(label is Label.NORMAL for label, _ in train):
        problems.append(FieldViolation("dataset.train.normal", "no normals to train on; import some"))
    rule = parameters.threshold_rule
    if needs_normals(rule) and (Label.NORMAL, Source.REAL, Split.VALIDATION) not in images:
        problems.append(
            FieldViolation("dataset.validation.normal", "no validation normals to count false alarms on; import more")
        )
    if problems:
        raise FailedPreconditionError(
            "DATASET_NOT_TRAINABLE",
            "the data set cannot train this classifier: " + "; ".join(p.description for p in problems),
            fields=problems,
        )
    check_rule(rule, sum(kind == (Label.DEFECT, Source.REAL) for kind in train))
