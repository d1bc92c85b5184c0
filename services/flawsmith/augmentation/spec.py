"""Requests of the augmentation service as checked values; field names are those of the protos."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from flawsmith.common.manifests import ObjectRef

MAX_SEED = 2**63 - 1


class AugmentImagesSpec(BaseModel):
    """A batch. name: of the batch to make. parameters: of the method, checked by it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    parent: str
    import_manifest: ObjectRef
    method: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict)
    count: int = Field(ge=1, le=100_000)
    seed: int = Field(default=0, ge=0, le=MAX_SEED)


class AugmentImageSpec(BaseModel):
    """One image. Its pixels travel beside this."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict)
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
