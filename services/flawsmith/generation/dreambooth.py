"""DreamBooth with prior preservation, training LoRA layers (Ruiz et al. 2023; kohya's and diffusers' scripts).

`loss = mse(instance) + prior_weight * mse(prior)`, each term weighted by min-SNR (Hang et al. 2023). Every random
number comes from the seed and the step's number alone, so that a resumed run repeats an uninterrupted one exactly.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from diffusers.training_utils import EMAModel

from flawsmith.common.errors import AbortedError, FailedPreconditionError, ResourceExhaustedError
from flawsmith.generation.buckets import Placement, Size, bucket_step, place
from flawsmith.generation.diffusion import LatentDiffusionModel
from flawsmith.generation.lora import (
    UNET_PREFIX,
    LoraLayerWeights,
    LoraWeights,
    extract,
    inject,
    insert,
    lower_frozen_weights,
    set_ratio,
)
from flawsmith.generation.memory import OUT_OF_MEMORY, in_parts, out_of_memory
from flawsmith.generation.presets import drawing_values
from flawsmith.generation.sampling import sample_latents
from flawsmith.generation.spec import FineTuneSpec, Flips

RESTARTS = 3
WEIGHT_DECAY = 1e-2
MAX_GRADIENT_NORM = 1.0
DRAWN_AT_ONCE = 4
_AVERAGED_STEPS = 20
# Streams of random numbers of one seed.
_ORDER, _BATCH = 1, 2
_FLIPPED_AXES: Mapping[Flips, tuple[tuple[int, ...], ...]] = {
    Flips.NONE: ((),),
    Flips.HORIZONTAL: ((), (1,)),
    Flips.VERTICAL: ((), (0,)),
    Flips.BOTH: ((), (0,), (1,), (0, 1)),
}


class Group(NamedTuple):
    """What the images of a batch have in common. window: height and width of the part of the latents that a step takes.
    views: whether they are pictures cut around a defect."""

    window: Size
    views: bool = False


@dataclass(frozen=True)
class DefectView:
    """What of a picture is painted in. prompt: says so. mask: 1 x h x w of the latents, float32, 1 inside.
    conditioning: what a model for inpainting reads beside the noisy latents, channels x h x w; None for others."""

    prompt: str
    mask: torch.Tensor
    conditioning: torch.Tensor | None


@dataclass(frozen=True)
class CachedImage:
    """What is kept of an instance image.

    means, deviations: of its scaled latents, F x channels x h x w, for the image and each of its flips. window: height
    and width of the part of the latents that a step takes, at a random place. view: of a picture that trains painting
    in what its mask covers.
    """

    means: torch.Tensor
    deviations: torch.Tensor
    window: Size
    view: DefectView | None = None

    @property
    def group(self) -> Group:
        """Which images it may share a batch with."""
        return Group(self.window, self.view is not None)


@dataclass(frozen=True)
class TrainingResult:
    """What came out: the adapter, the loss of each optimiser step, how far training went, and how many instance images
    went through the networks at once in the end (less than the batch size where memory ran out)."""

    weights: LoraWeights
    losses: list[float]
    steps: int
    epochs: int
    micro_batch: int

    @property
    def final_loss(self) -> float:
        """Mean loss of the last steps."""
        last = self.losses[-_AVERAGED_STEPS:]
        return sum(last) / len(last)


def place_images(model: LatentDiffusionModel, images: Sequence[np.ndarray], spec: FineTuneSpec) -> list[Placement]:
    """The size that each image trains at: the one that the specification names, else its bucket's."""
    if spec.height is not None and spec.width is not None:
        return [Placement((spec.height, spec.width), (spec.height, spec.width))] * len(images)
    multiple = model.size_multiple
    step = bucket_step(model.native_side, multiple) if spec.bucket_step is None else spec.bucket_step
    step = -(-step // multiple) * multiple
    return [place(*image.shape[:2], step=step, multiple=multiple, resolution=spec.resolution) for image in images]


def cache_latents(
    model: LatentDiffusionModel,
    images: Sequence[np.ndarray],
    placements: Sequence[Placement],
    flips: Flips = Flips.NONE,
) -> list[CachedImage]:
    """Encode instance images (uint8, h x w x 3, any sizes) once, whole: windows are cut from the latents, so that
    random crops cost no encoding. (A crop moves by whole latents then.) Flips are encoded too: autoencoders do not
    turn over with their images."""
    cached = []
    for image, placement in zip(images, placements, strict=True):
        pixels = scale_image(image, *placement.scaled)
        turned = np.stack([np.flip(pixels, axes) if axes else pixels for axes in _FLIPPED_AXES[flips]])
        means, deviations = model.encode_images(turned)
        height, width = (side // model.size_multiple for side in placement.bucket)
        cached.append(CachedImage(means, deviations, (height, width)))
    return cached


def scale_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """An image (uint8, h x w x 3) at another size."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = image.shape[0] > height or image.shape[1] > width
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def draw_prior(
    model: LatentDiffusionModel,
    spec: FineTuneSpec,
    placements: Sequence[Placement],
    on_image: Callable[[int, int], None] = lambda done, total: None,
    *,
    micro_batch: int | None = None,
) -> dict[Size, torch.Tensor]:
    """Latents of regularisation images: what the untouched base model draws from the class prompt, with its own
    guidance, by height and width of the latents. Each bucket gets its share of them, and one at least.

    Kept as latents, N x channels x h x w: decoding and encoding them again would only add the autoencoder's error.
    Empty when the specification asks for none. Must be called before a `Training` of the model is made. micro_batch:
    images drawn at once, at most; fewer where memory runs out. Raises what `in_parts` raises.
    """
    if spec.regularization_images == 0:
        return {}
    buckets = [placement.bucket for placement in placements]
    counts = {
        bucket: max(1, round(spec.regularization_images * buckets.count(bucket) / len(buckets)))
        for bucket in sorted(set(buckets))
    }
    total, done = sum(counts.values()), 0
    guidance = drawing_values(spec.base_model, model.architecture, adapted=False)["guidance"]
    prior = {}

    def draw(bucket: Size, done: int, rows: slice) -> torch.Tensor:
        with model.precision(spec.precision):
            latents = sample_latents(
                model,
                spec.class_prompt,
                "",
                height=bucket[0],
                width=bucket[1],
                steps=spec.regularization_steps,
                guidance=guidance,
                seeds=[spec.seed + done + index for index in range(rows.start, rows.stop)],
                clip_skip=spec.clip_skip,
            )
        on_image(done + rows.stop, total)
        return latents

    for bucket, count in counts.items():
        latents = torch.cat(
            in_parts(partial(draw, bucket, done), count, min(DRAWN_AT_ONCE, micro_batch or DRAWN_AT_ONCE))
        )
        done += count
        prior[latents.shape[-2], latents.shape[-1]] = latents
    return prior


def epoch_batches(spec: FineTuneSpec, groups: Sequence[Group], epoch: int) -> list[np.ndarray]:
    """Which instance images the batches of an epoch hold: whole ones `repeats` times and each view once, in an order of
    the epoch's own, in batches of one group each. groups: of every instance image."""
    rng = np.random.default_rng([spec.seed, _ORDER, epoch])
    batches = []
    for group in sorted(set(groups)):
        members = [index for index, other in enumerate(groups) if other == group]
        order = rng.permutation(np.tile(members, 1 if group.views else spec.repeats))
        batches += [order[first : first + spec.batch_size] for first in range(0, len(order), spec.batch_size)]
    return [batches[index] for index in rng.permutation(len(batches))]


def count_steps(spec: FineTuneSpec, groups: Sequence[Group]) -> int:
    """Optimiser steps of a run: those of its epochs, at most `max_steps`."""
    steps = math.ceil(spec.epochs * len(epoch_batches(spec, groups, 0)) / spec.gradient_accumulation)
    return min(steps, spec.max_steps or steps)


def min_snr_weights(snr: torch.Tensor, gamma: float, prediction_type: str = "epsilon") -> torch.Tensor:
    """`min(snr, gamma) / snr` for epsilon prediction, `min(snr, gamma) / (snr + 1)` for velocities (Hang et al. 2023);
    ones for flows, for which it is not defined, and when gamma is 0. Shape of snr."""
    if gamma == 0 or prediction_type == "flow":
        return torch.ones_like(snr)
    return snr.clamp(max=gamma) / (snr if prediction_type == "epsilon" else snr + 1)


def cosine_with_restarts(step: int, steps: int, restarts: int = RESTARTS) -> float:
    """Factor of the learning rate at a step (0 is the first): `restarts` cosines from 1 to 0, without warm-up."""
    return 0.5 * (1 + math.cos(math.pi * ((restarts * step / steps) % 1.0)))


def make_optimizer(name: str, groups: list[dict[str, Any]], device: torch.device) -> torch.optim.Optimizer:
    """AdamW: bitsandbytes' 8-bit one on CUDA where it is installed, else torch's, all parameters in one kernel.

    name: see `FineTuneSpec.optimizer`. Raises FailedPreconditionError (OPTIMIZER_UNAVAILABLE).
    """
    available = device.type == "cuda" and importlib.util.find_spec("bitsandbytes") is not None
    if name == "adamw8bit" and not available:
        raise FailedPreconditionError(
            "OPTIMIZER_UNAVAILABLE",
            "adamw8bit needs a CUDA device and the package bitsandbytes; install it (pip install flawsmith[gpu]), or "
            "set optimizer to auto",
        )
    if name != "adamw" and available:
        from bitsandbytes.optim import AdamW8bit

        optimizer: torch.optim.Optimizer = AdamW8bit(groups, weight_decay=WEIGHT_DECAY)
        return optimizer
    return torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY, fused=device.type in ("cpu", "cuda"))


class Training:
    """A fine-tuning under way: LoRA layers are put into the model, in place, and trained step by step.

    instances: from `cache_latents`. prior: from `draw_prior`. micro_batch: instance images that go through the networks
    at once, at most; the batch size when None. The gradients of a batch's parts are added up, so that a step does not
    depend on it.
    """

    def __init__(
        self,
        model: LatentDiffusionModel,
        instances: Sequence[CachedImage],
        prior: Mapping[Size, torch.Tensor],
        spec: FineTuneSpec,
        *,
        micro_batch: int | None = None,
    ) -> None:
        self.model, self.spec, self.losses = model, spec, list[float]()
        self.micro_batch = min(micro_batch or spec.batch_size, spec.batch_size)
        self._instances, self._prior = instances, prior
        groups = [instance.group for instance in instances]
        self.steps = count_steps(spec, groups)
        self._groups = groups
        self._epoch_length = len(epoch_batches(spec, groups, 0))
        self._epoch: tuple[int, list[np.ndarray]] = (0, epoch_batches(spec, groups, 0))
        shown = {instance.view.prompt for instance in instances if instance.view is not None}
        self._prompts = list(dict.fromkeys([spec.instance_prompt, spec.class_prompt, *sorted(shown)]))
        self._conditionings = {
            window: model.text_conditioning(*(side * model.size_multiple for side in window))
            for window, views in set(groups)
            if not views
        }
        parameters = self._inject()
        self._parameters: list[torch.nn.Parameter] = [p for group in parameters for p in group["params"]]
        self._rates = [group["lr"] for group in parameters]
        self._optimizer = make_optimizer(spec.optimizer, parameters, model.device)
        self._average = EMAModel(self._parameters, decay=spec.ema_decay, foreach=True) if spec.ema_decay else None
        self._scaler = torch.amp.GradScaler(model.device.type, enabled=spec.precision == "float16")
        # Once, where nothing about it changes.
        trains_text = len(parameters) > 1
        self._embeddings = None if trains_text else self._encode_prompts(self._prompts).detach()

    @property
    def done(self) -> bool:
        """Whether all steps were done."""
        return len(self.losses) >= self.steps

    def step(self) -> float:
        """One optimiser step; returns its loss.

        Raises AbortedError (TRAINING_DIVERGED) when the loss or its gradient is not finite: the weights are then those
        of the step before. Raises ResourceExhaustedError (OUT_OF_MEMORY) when not even one image of the batch fits.
        """
        number = len(self.losses)
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * cosine_with_restarts(number, self.steps)
        loss = self._accumulate_gradients(number)
        self._scaler.unscale_(self._optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, MAX_GRADIENT_NORM, foreach=True)
        # Both at once: every value read makes the host wait for the device.
        value, length = torch.stack([loss, norm.float()]).tolist()
        # With float16 the scaler skips such a step and lowers its scale, until nothing is left to lower.
        hopeless = not self._scaler.is_enabled() or self._scaler.get_scale() < 1
        if not math.isfinite(value) or (hopeless and not math.isfinite(length)):
            raise AbortedError(
                "TRAINING_DIVERGED",
                f"the loss of step {number + 1}, or its gradient, is not finite; lower unet_learning_rate and "
                "text_encoder_learning_rate",
            )
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._average is not None:
            self._average.step(self._parameters)
        self.losses.append(value)
        return value

    def state(self) -> dict[str, Any]:
        """What `load` takes: plain values and tensors."""
        return {
            "weights": _plain(extract(self.model.networks)),
            "optimizer": self._optimizer.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
            "scaler": self._scaler.state_dict(),
            "losses": list(self.losses),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from where `state` was asked for."""
        insert(_weights_of(state["weights"]), self.model.networks)
        self._optimizer.load_state_dict(state["optimizer"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
            self._average.to(self.model.device)
        self._scaler.load_state_dict(state["scaler"])
        self.losses = list(state["losses"])

    def result(self) -> TrainingResult:
        """The adapter as it is now, the averaged one where weights are averaged."""
        batches = len(self.losses) * self.spec.gradient_accumulation
        with self._averaged():
            weights = extract(self.model.networks)
        epochs = math.ceil(batches / self._epoch_length)
        return TrainingResult(weights, list(self.losses), len(self.losses), epochs, self.micro_batch)

    @contextlib.contextmanager
    def drawing(self) -> Iterator[None]:
        """A context in which the model draws what batches will: averaged weights, at the adapter's merge weight."""
        with self._averaged():
            for network in self.model.networks.values():
                set_ratio(network, self.spec.alpha)
            try:
                yield
            finally:
                for network in self.model.networks.values():
                    set_ratio(network, 1.0)

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        if self._average is None:
            yield
            return
        self._average.store(self._parameters)
        self._average.copy_to(self._parameters)
        try:
            yield
        finally:
            self._average.restore(self._parameters)

    def _inject(self) -> list[dict[str, Any]]:
        spec, model = self.spec, self.model
        sizes: dict[str, Any] = {
            "rank": spec.rank,
            "alpha": spec.rank_alpha,
            "conv_rank": spec.conv_rank,
            "conv_alpha": spec.conv_alpha,
        }
        torch.manual_seed(spec.seed)  # peft draws the initial weights from the global generator
        groups = []
        for prefix, network in model.networks.items():
            rate = spec.unet_learning_rate if prefix == UNET_PREFIX else spec.text_encoder_learning_rate
            if rate > 0:
                groups.append({"params": inject(network, spec.algorithm, **sizes), "lr": rate})
        if not all(group["params"] for group in groups):
            raise FailedPreconditionError(
                "BASE_MODEL_UNSUPPORTED", "the base model has no layers that this algorithm adapts"
            )
        with model.precision(spec.precision):
            kind = model.device.type
            dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        if dtype is not None:
            for network in model.networks.values():
                lower_frozen_weights(network, dtype)
        return groups

    def _encode_prompts(self, prompts: Sequence[str]) -> torch.Tensor:
        with self.model.precision(self.spec.precision):
            return self.model.encode_prompts(prompts, clip_skip=self.spec.clip_skip)

    def _embeddings_of(self, prompts: Sequence[str]) -> torch.Tensor:
        """Text embeddings, one row a prompt; each of them is encoded once."""
        if self._embeddings is not None:
            return self._embeddings[[self._prompts.index(prompt) for prompt in prompts]]
        different = list(dict.fromkeys(prompts))
        return self._encode_prompts(different)[[different.index(prompt) for prompt in prompts]]

    def _indices(self, batch: int) -> np.ndarray:
        epoch, position = divmod(batch, self._epoch_length)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, epoch_batches(self.spec, self._groups, epoch))
        return self._epoch[1][position]

    def _accumulate_gradients(self, step: int) -> torch.Tensor:
        """Backward passes of a step's batches, in smaller parts where memory does not suffice; returns the step's
        loss, detached."""
        while True:
            self._optimizer.zero_grad(set_to_none=True)
            total = torch.zeros((), device=self.model.device)
            batches = self.spec.gradient_accumulation
            try:
                for batch in range(step * batches, (step + 1) * batches):
                    for loss in self._losses(batch):
                        self._scaler.scale(loss / batches).backward()
                        total += loss.detach() / batches
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                # Its traceback holds the activations.
                failure: Exception = error.with_traceback(None)
            else:
                return total
            self._shrink(failure)

    def _losses(self, batch: int) -> Iterator[torch.Tensor]:
        """The parts of a batch's `mse(instance) + prior_weight * mse(prior)`; they add up to it. Both kinds of images
        go through the UNet in one pass. Views have no prior: their surroundings, which the model reads, are the good
        part of the image, and what it paints there counts for nothing."""
        model, spec = self.model, self.spec
        generator = torch.Generator().manual_seed(
            int(np.random.SeedSequence([spec.seed, _BATCH, batch]).generate_state(1, np.uint64)[0]) >> 1
        )
        chosen = self._indices(batch)
        count, group = len(chosen), self._groups[chosen[0]]
        latents = torch.stack([_draw_window(self._instances[index], generator) for index in chosen])
        views = [view for view in (self._instances[index].view for index in chosen) if view is not None]
        prompts = [view.prompt for view in views] or [spec.instance_prompt] * count
        if self._prior and not group.views:
            prior = self._prior[group.window]
            drawn = torch.randint(len(prior), (count,), generator=generator)
            latents = torch.cat([latents, prior[drawn.to(prior.device)]])
            prompts += [spec.class_prompt] * count
        noise = torch.randn(latents.shape, generator=generator)
        noise = noise + spec.noise_offset * torch.randn(*latents.shape[:2], 1, 1, generator=generator)
        timesteps = torch.randint(model.train_timesteps, (len(latents),), generator=generator)
        snr = model.signal_to_noise(timesteps)
        weights = min_snr_weights(snr, spec.min_snr_gamma, model.prediction_type) / count
        weights[count:] *= spec.prior_weight
        noise, timesteps, weights = (value.to(latents.device) for value in (noise, timesteps, weights))
        noisy = model.add_noise(latents, noise, timesteps)
        target = model.training_target(latents, noise, timesteps)
        for first in range(0, count, self.micro_batch):
            rows = [row for row in range(len(prompts)) if first <= row % count < first + self.micro_batch]
            embeddings = self._embeddings_of([prompts[row] for row in rows])
            conditioning = _conditioning_of(views, rows) if views else self._conditionings[group.window]
            with model.precision(spec.precision):
                predicted = model.predict(noisy[rows], timesteps[rows], embeddings, conditioning)
            squares = (predicted.float() - target[rows]).square().mean(dim=1, keepdim=True)
            counted = torch.stack([views[row].mask for row in rows]) if views else torch.ones_like(squares)
            errors = (squares * counted).sum(dim=(1, 2, 3)) / counted.sum(dim=(1, 2, 3))
            yield (errors * weights[rows]).sum()

    def _shrink(self, error: Exception) -> None:
        """Let half as many images go through the networks at once."""
        self._optimizer.zero_grad(set_to_none=True)
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.micro_batch == 1:
            raise ResourceExhaustedError(
                OUT_OF_MEMORY,
                "the device has no room for one image of the batch; train at a lower resolution, or on a device with "
                "more memory",
            ) from error
        self.micro_batch = -(-self.micro_batch // 2)


def train(
    model: LatentDiffusionModel,
    instances: Sequence[CachedImage],
    prior: Mapping[Size, torch.Tensor],
    spec: FineTuneSpec,
    *,
    state: Mapping[str, Any] | None = None,
    on_step: Callable[[int, int, float], None] = lambda step, steps, loss: None,
    on_checkpoint: Callable[[int, dict[str, Any]], None] = lambda step, state: None,
    on_preview: Callable[[int], None] = lambda step: None,
    checkpoint_every: int = 50,
    micro_batch: int | None = None,
) -> TrainingResult:
    """Fine-tune a model, in place, from `state` on where there is one.

    on_step: step, steps and loss. on_preview: called every `preview_every` steps, while the model draws what the
    adapter at that step draws. on_checkpoint: called every `checkpoint_every` steps with what `state` takes.
    Raises what `Training.step` raises; the last checkpoint is from before.
    """
    training = Training(model, instances, prior, spec, micro_batch=micro_batch)
    if state is not None:
        training.load(state)
    while not training.done:
        loss = training.step()
        step = len(training.losses)
        on_step(step, training.steps, loss)
        if spec.preview_every and step % spec.preview_every == 0:
            with training.drawing():
                on_preview(step)
        if step % checkpoint_every == 0 and not training.done:
            on_checkpoint(step, training.state())
    result = training.result()
    insert(result.weights, model.networks)
    return result


def _draw_window(image: CachedImage, generator: torch.Generator) -> torch.Tensor:
    """Latents of the image or one of its flips, at a random place: channels x window."""
    height, width = image.window
    turned, top, left = (
        int(torch.randint(count, (), generator=generator))
        for count in (
            len(image.means),
            image.means.shape[-2] - height + 1,
            image.means.shape[-1] - width + 1,
        )
    )
    part = (turned, slice(None), slice(top, top + height), slice(left, left + width))
    mean, deviation = image.means[part], image.deviations[part]
    return mean + deviation * torch.randn(mean.shape, generator=generator).to(mean.device)


def _conditioning_of(views: Sequence[DefectView], rows: Sequence[int]) -> torch.Tensor | None:
    chosen = [views[row].conditioning for row in rows]
    given = [conditioning for conditioning in chosen if conditioning is not None]
    return torch.stack(given) if given else None


def _plain(weights: LoraWeights) -> dict[str, Any]:
    return {name: (layer.down, layer.up, layer.alpha) for name, layer in weights.layers.items()}


def _weights_of(values: Mapping[str, Any]) -> LoraWeights:
    return LoraWeights({name: LoraLayerWeights(*parts) for name, parts in values.items()})
