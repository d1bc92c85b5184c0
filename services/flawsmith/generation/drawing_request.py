"""What one call of the diffusion model is asked for, and how it travels to Triton."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flawsmith.common.errors import FieldViolation, InvalidArgumentError
from flawsmith.generation.spec import MAX_SIDE, MIN_SIDE


class DrawingRequest(BaseModel):
    """One prompt, one adapter, one image a seed.

    adapter_uri, adapter_sha256: kohya safetensors in the object store; empty draws with the base model alone. alpha:
    merge weight. base_model_sha256: the base model's manifest that the adapter was trained on. height, width: pixels;
    round_size: sides that the model cannot make become the nearest that it can, instead of an error. steps: of DDIM.
    guidance: classifier-free; 1 is without. clip_skip: as in `FineTuneSpec`. strength: of a strategy that begins with
    images, the part of the schedule that is run, as in diffusers.
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
    round_size: bool = False
    steps: int = Field(default=50, ge=1, le=1000)
    guidance: float = Field(default=7.5, ge=0.0, le=50.0)
    clip_skip: int = Field(default=1, ge=1, le=12)
    strength: float = Field(default=1.0, gt=0.0, le=1.0)
    seeds: tuple[int, ...] = Field(min_length=1, max_length=64)


@dataclass(frozen=True)
class MaskedImages:
    """Images and what of them is meant. images: uint8, N x H x W x 3 RGB. masks: uint8, N x H x W, 255 inside and 0
    outside, none of them empty."""

    images: np.ndarray
    masks: np.ndarray

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.shape[3] != 3 or self.masks.shape != self.images.shape[:3]:
            raise InvalidArgumentError(
                "BAD_IMAGES",
                f"images of shape {self.images.shape} and masks of shape {self.masks.shape} do not go together; send "
                "N x height x width x 3 and N x height x width",
            )
        if not self.masks.reshape(len(self.masks), -1).any(axis=1).all():
            raise InvalidArgumentError("EMPTY_MASK", "a mask covers nothing, so nothing would be painted")


def to_tensors(request: DrawingRequest, masked: MaskedImages | None = None) -> dict[str, np.ndarray]:
    """A request as the Triton model's inputs: texts as BYTES, numbers as INT64 and FP64, each of shape [1];
    seeds of shape [N]; images and masks, where there are some, as UINT8."""
    tensors = {name: _tensor(value) for name, value in request.model_dump().items()}
    return tensors if masked is None else {**tensors, **masked_to_tensors(masked)}


def masked_to_tensors(masked: MaskedImages) -> dict[str, np.ndarray]:
    """Images and masks as the Triton model's inputs."""
    return {"image": np.ascontiguousarray(masked.images), "mask": np.ascontiguousarray(masked.masks)}


def masked_from_tensors(tensors: Mapping[str, np.ndarray]) -> MaskedImages | None:
    """The reverse of `masked_to_tensors`; None where no image was sent. Raises InvalidArgumentError (BAD_IMAGES,
    EMPTY_MASK)."""
    if "image" not in tensors:
        return None
    return MaskedImages(tensors["image"], tensors.get("mask", np.zeros(0, np.uint8)))


def from_tensors(tensors: Mapping[str, np.ndarray]) -> DrawingRequest:
    """The reverse of `to_tensors`, but for the images. Raises InvalidArgumentError (INVALID_FIELDS) listing every bad
    field."""
    values: dict[str, object] = {}
    for name, tensor in tensors.items():
        if name in DrawingRequest.model_fields:
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
