"""What a training run is told: parameters that a user sets, and the child process's whole input."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from flawsmith.classification.backbones import Backbone
from flawsmith.classification.recipes import DEFAULT_RECIPE, RECIPES
from flawsmith.classification.thresholds import FalseAlarmRateRule, ThresholdRule
from flawsmith.common.manifests import Label, Source, Split

MIN_SIDE, MAX_SIDE = 32, 2048
"""ResNet-50 halves its input five times; 2048 x 2048 is the largest that a batch of five fits in 24 GiB."""


class ParameterFields(BaseModel):
    """Parameters that a request and a run share.

    epochs or steps: at most one; the recipe's epochs when neither. One epoch is every positive once and as many
    negatives. batch_size, learning_rate, backbone: the recipe's when None. seed: of initial weights, sampling, flips,
    pastes and folds.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: str = DEFAULT_RECIPE
    epochs: int | None = Field(default=None, ge=1, le=10_000)
    steps: int | None = Field(default=None, ge=1, le=10_000_000)
    batch_size: int | None = Field(default=None, ge=2, le=1024)
    learning_rate: float | None = Field(default=None, gt=0.0, le=10.0)
    backbone: Backbone | None = None
    threshold_rule: ThresholdRule = FalseAlarmRateRule()
    seed: int = Field(default=0, ge=0, lt=2**63)

    @field_validator("recipe")
    @classmethod
    def _known_recipe(cls, value: str) -> str:
        if value not in RECIPES:
            raise ValueError(f"unknown recipe; one of: {', '.join(sorted(RECIPES))}")
        return value

    @field_validator("steps")
    @classmethod
    def _not_with_epochs(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("epochs") is not None:
            raise ValueError("set epochs or steps, not both")
        return value


class TrainingParameters(ParameterFields):
    """Parameters of one training run.

    height, width: pixels that images are centre-cropped and resized to. include_synthetic: False trains on real
    images only (the baseline; for a fair comparison give it the same `steps`).
    """

    height: int = Field(ge=MIN_SIDE, le=MAX_SIDE)
    width: int = Field(ge=MIN_SIDE, le=MAX_SIDE)
    include_synthetic: bool = True


class TrainingImage(BaseModel):
    """One image of the data set, downloaded.

    sha256: of the file. original_path, defect_type: as imported; they name it in the predictions. mask: where the
    recipe uses masks and the image has one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path
    sha256: str
    label: Label
    source: Source
    split: Split
    original_path: str = ""
    defect_type: str = ""
    mask: Path | None = None


class TrainingSpec(BaseModel):
    """Input of the training process.

    work_folder: where cache, checkpoint and results are written. checkpoint_every: steps; chosen by the length of the
    run when None. resume_from: a checkpoint of the same run. initial_weights: safetensors of the backbone, or None for
    random ones.
    threads: of PyTorch and ONNX Runtime. processes: that share every batch; one a GPU when None, at least two images
    for each. Results repeat exactly for the same number of both.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    parameters: TrainingParameters
    images: tuple[TrainingImage, ...]
    work_folder: Path
    initial_weights: Path | None = None
    resume_from: Path | None = None
    checkpoint_every: int | None = Field(default=None, ge=1)
    threads: int = Field(default=2, ge=1, le=256)
    processes: int | None = Field(default=None, ge=1, le=64)
