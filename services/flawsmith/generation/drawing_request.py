"""What one call of the diffusion model is asked for, and how it travels to Triton."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flawsmith.common.errors import FieldViolation, InvalidArgumentError
from flawsmith.generation.spec import MAX_SIDE, MIN_SIDE


class DrawingRequest(BaseModel):
    """One prompt, one adapter, one image a seed.

    adapter_uri, adapter_sha256: kohya safetensors in the object store; empty draws with the base model alone. alpha:
    merge weight. base_model_sha256: the base model's manifest that the adapter was trained on. height, width: pixels.
    steps: of DDIM. guidance: classifier-free; 1 is without. clip_skip: as in `FineTuneSpec`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    strategy: str = "text_to_image"
    prompt: str = Field(min_length=1, max_length=1000)
    negative_prompt: str = Field(default="", max_length=1000)
    base_model_sha256: str
    adapter_uri: str = ""
    adapter_sha256: str = ""
    alpha: float = Field(default=1.0, ge=0.0, le=1.0)
    height: int = Field(ge=MIN_SIDE, le=MAX_SIDE)
    width: int = Field(ge=MIN_SIDE, le=MAX_SIDE)
    steps: int = Field(default=50, ge=1, le=1000)
    guidance: float = Field(default=7.5, ge=0.0, le=50.0)
    clip_skip: int = Field(default=1, ge=1, le=12)
    seeds: tuple[int, ...] = Field(min_length=1, max_length=64)


def to_tensors(request: DrawingRequest) -> dict[str, np.ndarray]:
    """A request as the Triton model's inputs: texts as BYTES, numbers as INT64 and FP64, each of shape [1];
    seeds of shape [N]."""
    return {name: _tensor(value) for name, value in request.model_dump().items()}


def from_tensors(tensors: Mapping[str, np.ndarray]) -> DrawingRequest:
    """The reverse of `to_tensors`. Raises InvalidArgumentError (INVALID_FIELDS) listing every bad field."""
    values: dict[str, object] = {}
    for name, tensor in tensors.items():
        items = [item.decode() if isinstance(item, bytes) else item for item in tensor.ravel().tolist()]
        values[name] = items if name == "seeds" else items[0]
    try:
        return DrawingRequest.model_validate(values)
    except ValidationError as error:
        fields = [
            FieldViolation(".".join(map(str, entry["loc"])), entry["msg"])
            for entry in error.errors(include_url=False, include_context=False, include_input=False)
        ]
        listing = "; ".join(f"{field.field}: {field.description}" for field in fields)
        raise InvalidArgumentError("INVALID_FIELDS", f"correct these fields: {listing}", fields=fields) from error


def _tensor(value: object) -> np.ndarray:
    if isinstance(value, str):
        return np.array([value.encode()], dtype=np.object_)
    if isinstance(value, float):
        return np.array([value], dtype=np.float64)
    return np.array(value, dtype=np.int64).reshape(-1)
