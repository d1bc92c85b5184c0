"""What a fine-tuning run is told: the parameters that a user sets, and the child process's whole input."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

INSTANCE_PROMPT, CLASS_PROMPT = "skt background", "background"
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Optimizer = Literal["auto", "adamw", "adamw8bit"]
MIN_SIDE, MAX_SIDE = 32, 2048
"""Pixels. Below, latents are smaller than the UNet's kernels; above, attention outgrows common devices."""


class Algorithm(StrEnum):
    """Which layers an adapter has: see `flawsmith.generation.lora`."""

    LIERLA = "lierla"
    C3LIER = "c3lier"


class AdapterFormat(StrEnum):
    """Formats of adapters, of which `peft` is a folder: see `flawsmith.generation.adapter_formats`."""

    KOHYA = "kohya"
    DIFFUSERS = "diffusers"
    PEFT = "peft"


class Preset(StrEnum):
    """Named values of `FineTuneSpec`: see `flawsmith.generation.presets`."""

    IN_AND_OUT_ZERO = "in-and-out-zero"
    IN_AND_OUT_FEW = "in-and-out-few"
    IN_AND_OUT_FULL = "in-and-out-full"
    MINI_ZERO = "mini-zero"
    MINI_FEW = "mini-few"
    MINI_FULL = "mini-full"


class Flips(StrEnum):
    """In which directions a product's images may be turned over and still show the product."""

    NONE = "none"
    HORIZONTAL = "horizontal"
    VERTICAL = "vertical"
    BOTH = "both"


class FineTuneSpec(BaseModel):
    """How an adapter is trained.

    preset: where values that the caller left out came from; a record, nothing is read from it here. rank, rank_alpha:
    of linear layers and 1x1 convolutions; the update is scaled by rank_alpha / rank. conv_rank, conv_alpha: of 3x3
    convolutions (c3lier only). epochs: passes over the instance images, each counted `repeats` times; max_steps:
    optimiser steps, at most. batch_size: instance images of a batch; with prior preservation as many regularisation
    images go with them. optimizer: `adamw8bit` is bitsandbytes' on CUDA, `adamw` torch's, fused where the device has
    it; `auto` is the first where it can be had. ema_decay: of an exponential moving average of the adapter's weights,
    which is then what is kept; 0 turns it off. regularization_images: drawn by the base model from the class prompt in
    regularization_steps DDIM steps; 0 turns prior preservation off. prior_weight: loss = mse(instance) + prior_weight *
    mse(prior). defect_views: pictures cut from each image (`defect_views`), which train painting
    defects in; 0 trains whole images alone. min_snr_gamma: 0 weighs every noise level alike. noise_offset: deviation of
    what is added to a whole channel's noise, so that overall brightness is learnt too. leak_start: draw from the
    product's mean image, noised up to this fraction of the schedule (`flawsmith.generation.signal_leak`); 0 draws from
    pure noise. clip_skip: text encoder layers counted from the end; 1 uses the last (kohya's counting). height, width:
    pixels that images are stretched to, whatever resolution says. When None, images keep their own aspect ratio and
    train in buckets (`flawsmith.generation.buckets`): at their own size, or at about resolution x resolution pixels;
    bucket_step: pixels between the sides of buckets, None for 64, less where the base model makes small images. flips:
    turn images over at random in these directions; `none` unless the product looks the same afterwards. preview_every:
    optimiser steps between pictures of samples; 0 draws them at the end alone. alpha: merge weight that generation uses
    when none is named. precision: of the networks' passes, `auto` is bfloat16 where the device is quick at it; adapter
    and optimiser are float32, and float16 scales the loss so that small gradients survive. seed: of everything random.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_model: str = "mini"
    preset: Preset | None = None
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
    optimizer: Optimizer = "auto"
    ema_decay: float = Field(default=0.0, ge=0.0, lt=1.0)
    repeats: int = Field(default=10, ge=1, le=1000)
    regularization_images: int = Field(default=200, ge=0, le=10_000)
    regularization_steps: int = Field(default=50, ge=1, le=1000)
    defect_views: int = Field(default=0, ge=0, le=1000)
    prior_weight: float = Field(default=1.0, ge=0.0, le=100.0)
    min_snr_gamma: float = Field(default=5.0, ge=0.0, le=100.0)
    noise_offset: float = Field(default=0.0, ge=0.0, le=1.0)
    leak_start: float = Field(default=0.0, ge=0.0, le=1.0)
    clip_skip: int = Field(default=2, ge=1, le=12)
    instance_prompt: str = Field(default=INSTANCE_PROMPT, min_length=1, max_length=1000)
    class_prompt: str = Field(default=CLASS_PROMPT, min_length=1, max_length=1000)
    height: int | None = Field(default=None, ge=MIN_SIDE, le=MAX_SIDE)
    width: int | None = Field(default=None, ge=MIN_SIDE, le=MAX_SIDE)
    resolution: int | None = Field(default=None, ge=MIN_SIDE, le=MAX_SIDE)
    bucket_step: int | None = Field(default=None, ge=1, le=512)
    flips: Flips = Flips.NONE
    preview_every: int = Field(default=0, ge=0, le=1_000_000)
    alpha: float = Field(default=0.95, ge=0.0, le=1.0)
    precision: Precision = "auto"
    seed: int = Field(default=1234, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _both_sides(self) -> Self:
        if (self.height is None) != (self.width is None):
            raise ValueError("give both height and width, or neither")
        return self


class FineTuneRun(BaseModel):
    """The child's whole input.

    base_model: folder in diffusers' layout; base_model_sha256: its manifest's, written into the adapter's header.
    images: instance image files; good: whether they show no defect; masks: of their defects otherwise, None where
    nobody outlined one, of none of them when empty.
    work_folder: for outputs. resume_from: a checkpoint of the same run.
    checkpoint_every: optimiser steps. threads: of the CPU. micro_batch: instance images that go through the networks
    at once, at most; the batch size when None.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    spec: FineTuneSpec
    base_model: Path
    base_model_sha256: str
    images: tuple[Path, ...] = Field(min_length=1)
    good: bool = False
    masks: tuple[Path | None, ...] = ()
    work_folder: Path
    resume_from: Path | None = None
    checkpoint_every: int = Field(default=25, ge=1)
    threads: int = Field(default=2, ge=1)
    micro_batch: int | None = Field(default=None, ge=1)


class ConvertRun(BaseModel):
    """The whole input of the process that brings adapters from one format to another.

    base_model: folder of the model that the adapter must fit; base_model_sha256: its manifest's. source, target: files,
    or folders of peft's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_model: Path
    base_model_sha256: str
    source: Path
    target: Path
    format: AdapterFormat
