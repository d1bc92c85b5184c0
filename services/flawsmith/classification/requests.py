"""Requests of the long calls, as the workers get them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from flawsmith.classification.exports import ExportFormat
from flawsmith.classification.registry import Alias, SizePolicy
from flawsmith.classification.spec import MAX_SIDE, MIN_SIDE, ParameterFields, TrainingParameters
from flawsmith.classification.variants import Precision
from flawsmith.common.errors import FieldViolation, InvalidArgumentError
from flawsmith.common.manifests import ObjectRef, Split

HUB_MODEL = r"[\w.-]+/[\w.-]+@[0-9a-f]{40}"
"""`owner/name@commit`: by a branch or a tag the same request could mean other weights tomorrow."""


class TrainClassifierSpec(ParameterFields):
    """name: the version to make. height, width: of the classifier's input, pixels; the data set's own when None.

    initial_weights, initial_hub_model: what the backbone starts from; random weights when both are None. The latter is
    `owner/name@commit` of the Hugging Face hub.
    """

    name: str
    principal: str
    dataset_manifest: ObjectRef
    exclude_synthetic: bool = False
    height: int | None = Field(default=None, ge=MIN_SIDE, le=MAX_SIDE)
    width: int | None = Field(default=None, ge=MIN_SIDE, le=MAX_SIDE)
    initial_weights: ObjectRef | None = None
    initial_hub_model: str | None = None

    @field_validator("initial_hub_model")
    @classmethod
    def _at_a_commit(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(HUB_MODEL, value):
            raise ValueError(
                "write owner/name@commit with the commit's 40 hexadecimal digits, as its page on the hub shows them; a "
                "branch or a tag could mean other weights tomorrow"
            )
        return value

    @field_validator("threshold_rule", mode="before")
    @classmethod
    def _tagged(cls, value: object) -> object:
        """The message has one field a rule; the models tell them apart by `kind`. An empty message: the default."""
        if not isinstance(value, Mapping) or "kind" in value:
            return value
        for kind, rule in value.items():
            return {"kind": kind, **(rule if isinstance(rule, Mapping) else {"value": rule})}
        return {"kind": "false_alarm_rate"}

    def parameters(self, height: int, width: int) -> TrainingParameters:
        """With the data set's size where the request names none.

        Raises InvalidArgumentError (IMAGE_SIZE_UNSUPPORTED) where a classifier's input cannot be of that size.
        """
        sides = {"height": self.height or height, "width": self.width or width}
        limits = f"{MIN_SIDE} to {MAX_SIDE} pixels"
        wrong = [
            FieldViolation(name, f"{side} pixels by the data set; set {name} to {limits}")
            for name, side in sides.items()
            if not MIN_SIDE <= side <= MAX_SIDE
        ]
        if wrong:
            raise InvalidArgumentError(
                "IMAGE_SIZE_UNSUPPORTED",
                f"the data set's real images are {height} x {width} pixels (height x width), most of them, and a side "
                f"of a classifier's input has {limits}: set height and width (--height, --width), to which images are "
                "cropped and resized",
                fields=wrong,
            )
        shared: dict[str, Any] = {name: getattr(self, name) for name in ParameterFields.model_fields}
        return TrainingParameters(
            **shared, height=sides["height"], width=sides["width"], include_synthetic=not self.exclude_synthetic
        )


class EvaluateClassifierSpec(BaseModel):
    """name: the version. split: of the data set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    principal: str
    dataset_manifest: ObjectRef
    split: Split = Split.TEST


class DeployClassifierSpec(BaseModel):
    """name: the version. sizes of other images than the product's: see SizePolicy in the API."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    principal: str
    alias: Alias = "champion"
    precision: Precision = "fp32"
    size_policy: SizePolicy = "resize"


class ExportClassifierSpec(BaseModel):
    """name: the version."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    principal: str
    format: ExportFormat = "onnx"
