"""What a fine-tuning run is told, and the published values of each regime (In&Out, Capogrosso et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from flawsmith.common.manifests import Regime

INSTANCE_PROMPT, CLASS_PROMPT = "skt background", "background"
MIN_SIDE, MAX_SIDE = 32, 2048
"""Pixels. Below, latents are smaller than the UNet's kernels; above, attention outgrows common devices."""


class Algorithm(StrEnum):
    """Which layers an adapter has: see `flawsmith.generation.lora`."""

    LIERLA = "lierla"
    C3LIER = "c3lier"


class FineTuneSpec(BaseModel):
    """How an adapter is trained.

    rank, rank_alpha: of linear layers and 1x1 convolutions; the update is scaled by rank_alpha / rank. conv_rank,
    conv_alpha: of 3x3 convolutions (c3lier only). epochs: passes over the instance images, each counted `repeats`
    times; max_steps: optimiser steps, at most. batch_size: instance images of a batch; with prior preservation as
    many regularisation images go with them. regularization_images: drawn by the base model from the class prompt in
    regularization_steps DDIM steps; 0 turns prior preservation off. prior_weight: loss = mse(instance) +
    prior_weight * mse(prior). min_snr_gamma: 0 weighs every noise level alike. clip_skip: text encoder layers
    counted from the end; 1 uses the last (kohya's counting). height, width: pixels that images are scaled to; the
    product's own when None. alpha: merge weight that generation uses when none is named. precision: of the UNet's and
    the text encoder's forward pass; weights and optimiser states are float32. seed: of everything random.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_model: str = "mini"
    algorithm: Algorithm = Algorithm.C3LIER
    rank: int = Field(default=32, ge=1, le=512)
    rank_alpha: float = Field(default=16.0, gt=0.0, le=512.0)
    conv_rank: int = Field(default=4, ge=1, le=512)
    conv_alpha: float = Field(default=1.0, gt=0.0, le=512.0)
    unet_learning_rate: float = Field(default=1e-5, gt=0.0, le=1.0)
    text_encoder_learning_rate: float = Field(default=1e-5, ge=0.0, le=1.0)
    epochs: int = Field(default=49, ge=1, le=10_000)
    max_steps: int | None = Field(default=None, ge=1, le=1_000_000)
    batch_size: int = Field(default=12, ge=1, le=256)
    gradient_accumulation: int = Field(default=1, ge=1, le=256)
    repeats: int = Field(default=10, ge=1, le=1000)
    regularization_images: int = Field(default=200, ge=0, le=10_000)
    regularization_steps: int = Field(default=50, ge=1, le=1000)
    prior_weight: float = Field(default=1.0, ge=0.0, le=100.0)
    min_snr_gamma: float = Field(default=5.0, ge=0.0, le=100.0)
    clip_skip: int = Field(default=2, ge=1, le=12)
    instance_prompt: str = Field(default=INSTANCE_PROMPT, min_length=1, max_length=1000)
    class_prompt: str = Field(default=CLASS_PROMPT, min_length=1, max_length=1000)
    height: int | None = Field(default=None, ge=MIN_SIDE, le=MAX_SIDE)
    width: int | None = Field(default=None, ge=MIN_SIDE, le=MAX_SIDE)
    alpha: float = Field(default=0.95, ge=0.0, le=1.0)
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = Field(default=1234, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _both_sides(self) -> Self:
        if (self.height is None) != (self.width is None):
            raise ValueError("give both height and width, or neither")
        return self


_PUBLISHED: dict[Regime, dict[str, Any]] = {
    Regime.ZERO_SHOT: {"epochs": 5, "alpha": 0.60},
    Regime.FEW_SHOT: {"epochs": 49, "alpha": 0.95},
    Regime.FULL_SHOT: {"epochs": 25, "alpha": 0.80},
}
# The paper's learning rate suits 860 M parameters and hours on a GPU. The mini model, with a hundredth of them, was
# tried on the sample product: these steps and rates show its defects after a minute or two on two CPU cores.
_MINI: dict[str, Any] = {
    "unet_learning_rate": 1e-3,
    "text_encoder_learning_rate": 2e-4,
    "max_steps": 120,
    "batch_size": 4,
    "regularization_images": 8,
    "regularization_steps": 12,
    "clip_skip": 1,
    "precision": "bfloat16",
}
_BY_BASE_MODEL: Mapping[str, Mapping[str, Any]] = {"mini": _MINI}

GENERATION_PROMPTS: Mapping[Regime, tuple[str, ...]] = {
    Regime.ZERO_SHOT: ("skt background cracked", "skt background scratched"),
    Regime.FEW_SHOT: ("skt background",),
    Regime.FULL_SHOT: ("skt background",),
}
"""Prompts that the paper's batches were drawn from; an operator approves them first."""


def fine_tune_spec(regime: Regime, **values: Any) -> FineTuneSpec:
    """The specification of a regime: the paper's values, then the base model's own preset, then the given ones.

    Values that are None count as not given. Raises pydantic.ValidationError listing every bad field.
    """
    given = {name: value for name, value in values.items() if value is not None}
    base_model = given.get("base_model", FineTuneSpec.model_fields["base_model"].default)
    return FineTuneSpec.model_validate({**_PUBLISHED[regime], **_BY_BASE_MODEL.get(base_model, {}), **given})
