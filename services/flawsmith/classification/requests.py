"""Requests of the long calls, as the workers get them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from flawsmith.classification.spec import MAX_SIDE, MIN_SIDE, ParameterFields, TrainingParameters
from flawsmith.common.manifests import ObjectRef, Split


class TrainClassifierSpec(ParameterFields):
    """name: the version to make. height, width: of the classifier's input, pixels; the data set's own when None."""

    name: str
    principal: str
    dataset_manifest: ObjectRef
    exclude_synthetic: bool = False
    height: int | None = Field(default=None, ge=MIN_SIDE, le=MAX_SIDE)
    width: int | None = Field(default=None, ge=MIN_SIDE, le=MAX_SIDE)
    initial_weights: ObjectRef | None = None

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
        """With the data set's size where the request names none."""
        shared: dict[str, Any] = {name: getattr(self, name) for name in ParameterFields.model_fields}
        return TrainingParameters(
            **shared,
            height=self.height or height,
            width=self.width or width,
            include_synthetic=not self.exclude_synthetic,
        )


class EvaluateClassifierSpec(BaseModel):
    """name: the version. split: of the data set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    principal: str
    dataset_manifest: ObjectRef
    split: Split = Split.TEST


class DeployClassifierSpec(BaseModel):
    """name: the version."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    principal: str
