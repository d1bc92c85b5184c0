"""Requests of the augmentation service as checked values; field names are those of the protos."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from flawsmith.common.manifests import ObjectRef

MAX_SEED = 2**63 - 1


class AugmentImageSpec(BaseModel):
    """One image. Its pixels travel beside this.

    parameters: of the method, checked by it. texture_prefix: folder of the caller's textures; "" for procedural ones.
    generated_batch: manifest of the batch that anomalies are drawn from.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict)
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    texture_prefix: str = Field(default="", max_length=1000)
    generated_batch: ObjectRef | None = None


class AugmentImagesSpec(AugmentImageSpec):
    """A batch. name: of the batch to make."""

    name: str
    parent: str
    import_manifest: ObjectRef
    count: int = Field(ge=1, le=100_000)


class PreviewPlacementSpec(BaseModel):
    """A preview for one image. Its pixels travel beside this."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict)
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    count: int = Field(default=8, ge=1, le=16)
