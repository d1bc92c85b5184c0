"""Requests of the assembly service as checked values; field names are those of the protos."""

from __future__ import annotations

import math
import re
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from flawsmith.common.manifests import ObjectRef, Regime

MAX_SEED = 2**62 - 1
"""Batches count up from it."""
MAX_PATH_LENGTH = 500


class UploadSpec(BaseModel):
    """Files to be uploaded: paths relative to the data set's folder. prefix: of an upload that they go into, as
    CreateUpload returned it; a new one when empty."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    paths: tuple[str, ...] = Field(min_length=1, max_length=10_000)
    prefix: str = Field(default="", max_length=1000)

    @field_validator("prefix")
    @classmethod
    def _of_an_upload(cls, value: str) -> str:
        # Whoever may write anywhere else could overwrite what others rely on.
        if value and not re.fullmatch(r"s3://[^/]+/uploads/[0-9a-f]{16}/", value):
            raise ValueError("must be a prefix that CreateUpload returned, or empty")
        return value

    @model_validator(mode="after")
    def _relative_and_distinct(self) -> Self:
        for path in self.paths:
            parts = path.split("/")
            if not 1 <= len(path) <= MAX_PATH_LENGTH or {"", ".", ".."} & set(parts) or not path.isprintable():
                raise ValueError(
                    f"paths: {path[:80]!r} must be a relative path of 1 to {MAX_PATH_LENGTH} printable characters "
                    "without empty, `.` or `..` parts"
                )
        if len(set(self.paths)) != len(self.paths):
            raise ValueError("paths: each may be given once")
        return self


class DownloadSpec(BaseModel):
    """Stored objects to be read by the caller."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    objects: tuple[ObjectRef, ...] = Field(min_length=1, max_length=1000)


class ImportSpec(BaseModel):
    """name: of the import to make. prefix: `s3://bucket/...` of the uploaded files. validation_share: of train's
    groups."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    parent: str
    prefix: str = Field(min_length=1)
    validation_share: float = Field(default=0.2, gt=0.0, lt=0.5)
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    licence: str = Field(default="", max_length=2000)


class GenerationOptions(BaseModel):
    """How the diffusion model's share is drawn; what is None follows the regime's preset."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    adapter: str = ""
    base_model: str = ""
    prompts: tuple[str, ...] = Field(default=(), max_length=100)
    max_steps: int | None = Field(default=None, ge=1, le=1_000_000)
    alpha: float | None = Field(default=None, ge=0.0, le=1.0)
    steps: int | None = Field(default=None, ge=1, le=1000)
    guidance: float | None = Field(default=None, ge=0.0, le=50.0)
    height: int | None = Field(default=None, ge=32, le=2048)
    width: int | None = Field(default=None, ge=32, le=2048)
    strategy: Literal["text_to_image", "inpaint"] = "text_to_image"
    preset: Literal["", "dsaii", "diag"] = ""
    foreground: Literal["", "texture", "object"] = ""
    masks: Literal["", "imported", "drawn"] = ""
    without_adapter: bool = False
    tuning_preset: Literal[
        "", "in-and-out-zero", "in-and-out-few", "in-and-out-full", "mini-zero", "mini-few", "mini-full"
    ] = ""
    flips: Literal["", "none", "horizontal", "vertical", "both"] = ""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if any(not 1 <= len(prompt.strip()) <= 1000 for prompt in self.prompts):
            raise ValueError("prompts: each must have 1 to 1000 characters")
        if (self.height is None) != (self.width is None):
            raise ValueError("give both height and width, or neither")
        if self.strategy != "inpaint" and (self.preset or self.foreground or self.masks):
            raise ValueError("preset, foreground and masks need the strategy inpaint")
        if self.without_adapter and self.adapter:
            raise ValueError("adapter: name none where without_adapter is set")
        if (self.adapter or self.without_adapter) and (self.tuning_preset or self.flips):
            raise ValueError(
                "tuning_preset and flips are of a fine-tuning: leave them unset with adapter or without_adapter"
            )
        return self


class RequestDatasetSpec(BaseModel):
    """A data set on demand, to be made as `name`. import_: name of an import, the newest when empty. n_aug: synthetic
    positives in all; in_distribution_share of them are drawn by the diffusion model, an odd one too, the others by
    per-region augmentation."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    name: str
    parent: str
    import_: str = Field(default="", alias="import")
    regime: Regime
    n_aug: int = Field(default=0, ge=0, le=10_000)
    in_distribution_share: float = Field(default=0.5, ge=0.0, le=1.0)
    review_required: bool = False
    generation: GenerationOptions = GenerationOptions()
    augmentation_method: str = ""
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)

    @model_validator(mode="after")
    def _has_positives(self) -> Self:
        if self.regime == Regime.ZERO_SHOT and self.n_aug == 0:
            raise ValueError("n_aug: must be at least 1 in the zero_shot regime, which has no other positives")
        return self

    @property
    def in_distribution(self) -> int:
        """Images that the diffusion model draws."""
        # Rounded first: 10 * 0.3 is a little above 3 in binary.
        return math.ceil(round(self.n_aug * self.in_distribution_share, 6))

    @property
    def out_of_distribution(self) -> int:
        """Images that per-region augmentation makes."""
        return self.n_aug - self.in_distribution


class UpdateProductSpec(BaseModel):
    """What a product requires of its data sets."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    review_required: bool


class AssembleSpec(BaseModel):
    """A data set from batches that exist. review_required: names of batches of which only accepted images count."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    name: str
    parent: str
    import_: str = Field(default="", alias="import")
    regime: Regime
    batches: tuple[ObjectRef, ...] = Field(default=(), max_length=100)
    review_required: tuple[str, ...] = Field(default=(), max_length=100)
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
