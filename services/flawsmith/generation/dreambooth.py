"""DreamBooth with prior preservation, training LoRA layers (Ruiz et al. 2023; kohya's and diffusers' scripts).

`loss = mse(instance) + prior_weight * mse(prior)`, each term weighted by min-SNR (Hang et al. 2023). Every random
number comes from the seed and the step's number alone, so that a resumed run repeats an uninterrupted one exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch

from flawsmith.common.errors import AbortedError, FailedPreconditionError
from flawsmith.generation.diffusion import LatentDiffusionModel
from flawsmith.generation.lora import LoraLayerWeights, LoraWeights, extract, inject, insert
from flawsmith.generation.sampling import sample_latents
from flawsmith.generation.spec import FineTuneSpec

RESTARTS = 3
WEIGHT_DECAY = 1e-2
MAX_GRADIENT_NORM = 1.0
PRIOR_GUIDANCE = 7.5
_AVERAGED_STEPS = 20
# Streams of random numbers of one seed.
_ORDER, _BATCH = 1, 2


@dataclass(frozen=True)
class InstanceLatents:
    """Cached latents of the instance images: means and standard deviations, N x channels x h x w, scaled."""

    means: torch.Tensor
    deviations: torch.Tensor


@dataclass(frozen=True)
class TrainingResult:
    """What came out: the adapter, the loss of each optimiser step, and how far training went."""

    weights: LoraWeights
    losses: list[float]
    steps: int
    epochs: int

    @property
    def final_loss(self) -> float:
        """Mean loss of the last steps."""
        last = self.losses[-_AVERAGED_STEPS:]
        return sum(last) / len(last)


def scale_images(images: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """Images (uint8, h x w x 3, any sizes) scaled to one size: N x height x width x 3."""
    scaled = []
    for image in images:
        shrinks = image.shape[0] > height or image.shape[1] > width
        interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        same = image.shape[:2] == (height, width)
        scaled.append(image if same else cv2.resize(image, (width, height), interpolation=interpolation))
    return np.stack(scaled)


def native_size(model: LatentDiffusionModel, images: list[np.ndarray]) -> tuple[int, int]:
    """Height and width nearest to the images' median that the model can make: the product's own aspect ratio."""
    height, width = np.median([image.shape[:2] for image in images], axis=0)
    return model.nearest_side(int(height)), model.nearest_side(int(width))


def cache_latents(model: LatentDiffusionModel, images: np.ndarray) -> InstanceLatents:
    """Encode the instance images (uint8, N x H x W x 3) once."""
    return InstanceLatents(*model.encode_images(images))


def draw_prior(
    model: LatentDiffusionModel,
    spec: FineTuneSpec,
    height: int,
    width: int,
    on_image: Callable[[int, int], None] = lambda done, total: None,
) -> torch.Tensor | None:
    """Latents of regularisation images: what the untouched base model draws from the class prompt.

    Kept as latents, N x channels x h x w: decoding and encoding them again would only add the autoencoder's error.
    None when the specification asks for none. Must be called before `inject`.
    """
    total = spec.regularization_images
    parts: list[torch.Tensor] = []
    for first in range(0, total, 4):
        seeds = [spec.seed + index for index in range(first, min(first + 4, total))]
        with model.precision(spec.precision):
            parts.append(
                sample_latents(
                    model,
                    spec.class_prompt,
                    "",
                    height=height,
                    width=width,
                    steps=spec.regularization_steps,
                    guidance=PRIOR_GUIDANCE,
                    seeds=seeds,
                    clip_skip=spec.clip_skip,
                )
            )
        on_image(first + len(seeds), total)
    return torch.cat(parts) if parts else None


def batches_per_epoch(spec: FineTuneSpec, images: int) -> int:
    """Batches of one epoch: every instance image `repeats` times."""
    return math.ceil(images * spec.repeats / spec.batch_size)


def count_steps(spec: FineTuneSpec, images: int) -> int:
    """Optimiser steps of a run: those of its epochs, at most `max_steps`."""
    steps = math.ceil(spec.epochs * batches_per_epoch(spec, images) / spec.gradient_accumulation)
    return min(steps, spec.max_steps or steps)


def batch_indices(spec: FineTuneSpec, images: int, batch: int) -> np.ndarray:
    """Which instance images the run's k-th batch holds: each epoch is a shuffle of all of them, `repeats` times."""
    epoch, position = divmod(batch, batches_per_epoch(spec, images))
    order = np.random.default_rng([spec.seed, _ORDER, epoch]).permutation(np.tile(np.arange(images), spec.repeats))
    return order[position * spec.batch_size : (position + 1) * spec.batch_size]


def min_snr_weights(
    alphas_cumprod: torch.Tensor, timesteps: torch.Tensor, gamma: float, prediction_type: str = "epsilon"
) -> torch.Tensor:
    """`min(snr, gamma) / snr` for epsilon prediction, `min(snr, gamma) / (snr + 1)` for velocities (Hang et al. 2023);
    ones when gamma is 0. Shape of timesteps."""
    if gamma == 0:
        return torch.ones(timesteps.shape)
    kept = alphas_cumprod[timesteps]
    snr = kept / (1 - kept)
    return snr.clamp(max=gamma) / (snr if prediction_type == "epsilon" else snr + 1)


def cosine_with_restarts(step: int, steps: int, restarts: int = RESTARTS) -> float:
    """Factor of the learning rate at a step (0 is the first): `restarts` cosines from 1 to 0, without warm-up."""
    return 0.5 * (1 + math.cos(math.pi * ((restarts * step / steps) % 1.0)))


def train(
    model: LatentDiffusionModel,
    instances: InstanceLatents,
    prior: torch.Tensor | None,
    spec: FineTuneSpec,
    *,
    state: dict[str, Any] | None = None,
    on_step: Callable[[int, int, float], None] = lambda step, steps, loss: None,
    on_checkpoint: Callable[[int, dict[str, Any]], None] = lambda step, state: None,
    checkpoint_every: int = 50,
) -> TrainingResult:
    """Fine-tune a model, in place: LoRA layers are put into its UNet, and into its text encoder where that learns.

    prior: regularisation latents, or None. state: a checkpoint's, to go on from. on_step: step, steps and loss.
    on_checkpoint: called every `checkpoint_every` steps with what `state` takes.
    Raises AbortedError (TRAINING_DIVERGED) when the loss is not finite; the last checkpoint is from before.
    """
    parameters = _prepare(model, spec)
    optimizer = torch.optim.AdamW(parameters, weight_decay=WEIGHT_DECAY)
    rates = [group["lr"] for group in optimizer.param_groups]
    losses: list[float] = []
    if state is not None:
        insert(_weights_of(state["weights"]), model.unet, model.text_encoder)
        optimizer.load_state_dict(state["optimizer"])
        losses = list(state["losses"])
    count = len(instances.means)
    steps = count_steps(spec, count)
    height, width = (side * model.size_multiple for side in instances.means.shape[-2:])
    conditioning = model.text_conditioning(height, width)
    for step in range(len(losses), steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * cosine_with_restarts(step, steps)
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for part in range(spec.gradient_accumulation):
            batch = step * spec.gradient_accumulation + part
            loss = _batch_loss(model, instances, prior, conditioning, spec, batch) / spec.gradient_accumulation
            total += loss.item()
            if not math.isfinite(total):
                raise AbortedError(
                    "TRAINING_DIVERGED",
                    f"the loss of step {step + 1} is not finite; lower unet_learning_rate and "
                    "text_encoder_learning_rate (the last good checkpoint is kept)",
                )
            loss.backward()
        torch.nn.utils.clip_grad_norm_([p for group in parameters for p in group["params"]], MAX_GRADIENT_NORM)
        optimizer.step()
        losses.append(total)
        on_step(step + 1, steps, total)
        if (step + 1) % checkpoint_every == 0 and step + 1 < steps:
            on_checkpoint(
                step + 1,
                {
                    "weights": _plain(extract(model.unet, model.text_encoder)),
                    "optimizer": optimizer.state_dict(),
                    "losses": list(losses),
                },
            )
    epochs = math.ceil(steps * spec.gradient_accumulation / batches_per_epoch(spec, count))
    return TrainingResult(extract(model.unet, model.text_encoder), losses, steps, epochs)


def _prepare(model: LatentDiffusionModel, spec: FineTuneSpec) -> list[dict[str, Any]]:
    sizes: dict[str, Any] = {
        "rank": spec.rank,
        "alpha": spec.rank_alpha,
        "conv_rank": spec.conv_rank,
        "conv_alpha": spec.conv_alpha,
    }
    torch.manual_seed(spec.seed)  # peft draws the initial weights from the global generator
    groups = [{"params": inject(model.unet, spec.algorithm, **sizes), "lr": spec.unet_learning_rate}]
    if spec.text_encoder_learning_rate > 0:
        trained = inject(model.text_encoder, spec.algorithm, **sizes)
        groups.append({"params": trained, "lr": spec.text_encoder_learning_rate})
    if not all(group["params"] for group in groups):
        raise FailedPreconditionError(
            "BASE_MODEL_UNSUPPORTED", "the base model has no layers that this algorithm adapts"
        )
    return groups


def _batch_loss(
    model: LatentDiffusionModel,
    instances: InstanceLatents,
    prior: torch.Tensor | None,
    conditioning: torch.Tensor | None,
    spec: FineTuneSpec,
    batch: int,
) -> torch.Tensor:
    """`mse(instance) + prior_weight * mse(prior)` of one batch, both in one pass through the UNet."""
    generator = torch.Generator().manual_seed(
        int(np.random.SeedSequence([spec.seed, _BATCH, batch]).generate_state(1, np.uint64)[0]) >> 1
    )
    chosen = torch.from_numpy(batch_indices(spec, len(instances.means), batch))
    mean, deviation = instances.means[chosen], instances.deviations[chosen]
    latents = mean + deviation * torch.randn(mean.shape, generator=generator).to(mean.device)
    prompts, count = [spec.instance_prompt], len(latents)
    if prior is not None:
        drawn = torch.randint(len(prior), (count,), generator=generator)
        latents = torch.cat([latents, prior[drawn.to(prior.device)]])
        prompts.append(spec.class_prompt)
    noise = torch.randn(latents.shape, generator=generator)
    noise = noise + spec.noise_offset * torch.randn(*latents.shape[:2], 1, 1, generator=generator)
    noise = noise.to(latents.device)
    scheduler = model.scheduler
    timesteps = torch.randint(scheduler.config.num_train_timesteps, (len(latents),), generator=generator)
    noisy = scheduler.add_noise(latents, noise, timesteps.to(latents.device))
    with model.precision(spec.precision):
        embeddings = model.encode_prompts(prompts, clip_skip=spec.clip_skip).repeat_interleave(count, dim=0)
        predicted = model.predict(noisy, timesteps.to(latents.device), embeddings, conditioning)
    target = model.training_target(latents, noise, timesteps.to(latents.device))
    errors = (predicted.float() - target).square().mean(dim=(1, 2, 3))
    weights = min_snr_weights(scheduler.alphas_cumprod, timesteps, spec.min_snr_gamma, model.prediction_type)
    errors = errors * weights.to(errors.device)
    loss = errors[:count].mean()
    return loss if prior is None else loss + spec.prior_weight * errors[count:].mean()


def _plain(weights: LoraWeights) -> dict[str, Any]:
    return {name: (layer.down, layer.up, layer.alpha) for name, layer in weights.layers.items()}


def _weights_of(values: dict[str, Any]) -> LoraWeights:
    return LoraWeights({name: LoraLayerWeights(*parts) for name, parts in values.items()})
