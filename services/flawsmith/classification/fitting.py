"""Optimisation of one network: balanced batches, bf16 where the processor has it, exact resume, several devices."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from flawsmith.classification.model import ResNetClassifier
from flawsmith.classification.pasting import paste_defect
from flawsmith.classification.recipes import Batch, Recipe
from flawsmith.classification.sampling import BalancedSampler
from flawsmith.common.errors import AbortedError

_LEAST_WIDTH = 64
"""Pixels. A 16th of 32 or fewer is a feature map two columns wide, for which PyTorch 2.13's strided 3x3 convolutions
read memory that nobody wrote, in bf16 on CPUs."""
RECALIBRATION_BATCHES = 40
"""At most; enough for batch statistics to settle (their error falls with the root of the number)."""


@dataclass(frozen=True)
class Schedule:
    """steps: optimiser steps. batch_size, learning_rate: as used. seed: of sampling, flips and pastes."""

    steps: int
    batch_size: int
    learning_rate: float
    seed: int


@dataclass(frozen=True)
class TrainingSet:
    """images: uint8, N x H x W x 3 (may be memory-mapped). positives, negatives: indices into it.

    masks: uint8, M x H x W, above 0 on the defect (may be memory-mapped), and mask_of: the mask of each image that has
    one; only recipes that use masks look at them. Negatives' masks are known to be empty. real: indices of real
    defects, among which may be some that are not in positives.
    """

    images: np.ndarray
    positives: tuple[int, ...]
    negatives: tuple[int, ...]
    masks: np.ndarray | None = None
    mask_of: dict[int, int] = field(default_factory=dict)
    real: frozenset[int] = frozenset()

    @cached_property
    def _pasteable(self) -> tuple[int, ...]:
        return tuple(index for index in self.positives if index in self.real and index in self.mask_of)

    def batch(self, chosen: np.ndarray, recipe: Recipe, generator: np.random.Generator) -> Batch:
        """The chosen images, augmented, on the CPU. chosen: indices, N.

        In the recipe's share of the places of defects with masks comes a real one that is pasted into a normal: the
        chosen one, or where that is synthetic any that has a mask. So a few real defects are seen beside many synthetic
        ones too. Synthetic defects themselves stay: they are in normals of their own, and more can be made.
        """
        defective = [index in self.positives for index in chosen.tolist()]
        labels = torch.tensor(defective, dtype=torch.float32)
        pixels = self.images[chosen]
        if not recipe.uses_masks:
            return Batch(torch.from_numpy(recipe.augment(pixels, generator)), labels)
        masks = np.zeros((*pixels.shape[:3], 1), dtype=np.uint8)
        for row, index in enumerate(chosen.tolist()):
            if self.masks is None or index not in self.mask_of:
                continue
            mask = self.masks[self.mask_of[index]]
            if self._pasteable and generator.random() < recipe.pasted:
                source = index if index in self.real else generator.choice(self._pasteable)
                normal = self.images[generator.choice(self.negatives)]
                mask = self.masks[self.mask_of[source]]
                pixels[row], mask = paste_defect(self.images[source], mask, normal, generator)
            masks[row, ..., 0] = mask
        turned = torch.from_numpy(recipe.augment(np.concatenate([pixels, masks], axis=3), generator))
        has_mask = torch.tensor(
            [not defect or index in self.mask_of for index, defect in zip(chosen.tolist(), defective, strict=True)]
        )
        return Batch(turned[..., :3].contiguous(), labels, turned[..., 3].contiguous(), has_mask)


class Objective(nn.Module):
    """A network and its recipe's loss as one module, so that what runs on several devices sees one forward."""

    def __init__(self, network: ResNetClassifier, recipe: Recipe) -> None:
        super().__init__()
        self.network = network
        self.loss = recipe.loss

    def forward(self, batch: Batch) -> Tensor:
        """The batch's loss, a scalar."""
        return self.loss(self.network, batch)


def fit(
    model: ResNetClassifier,
    data: TrainingSet,
    recipe: Recipe,
    schedule: Schedule,
    *,
    device: torch.device,
    state: dict[str, Any] | None = None,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    checkpoint: Callable[[int, dict[str, Any]], None] = lambda step, state: None,
    checkpoint_every: int = 100,
) -> list[float]:
    """Train `model` in place and return the loss of every step.

    state: of a former call's checkpoint; continues exactly as if never stopped (same devices and threads).
    on_step: called with (steps done, loss). checkpoint: called with (steps done, state) every `checkpoint_every`
    steps and at the end; the state refers to live tensors, so write it before returning.
    Flips and pastes depend on seed and step alone, so they need no state.
    Batch-normalisation statistics are measured anew at the end (`recalibrate`), which is part of the last step.
    Where several processes run this (see `processes.py`), each takes its share of every batch, and gradients,
    losses and, on GPUs, batch-normalisation statistics are those of the whole batch.
    Raises AbortedError TRAINING_DIVERGED when the loss is not finite.
    """
    accelerator = Accelerator(cpu=device.type == "cpu")
    device = accelerator.device
    sampler = BalancedSampler(data.positives, data.negatives, schedule.seed)
    network = model
    if accelerator.num_processes > 1 and device.type == "cuda":
        network = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    network.to(device=device, memory_format=torch.channels_last)
    optimiser = recipe.optimiser(network.parameters(), schedule.learning_rate)
    losses: list[float] = []
    if state is not None:
        network.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        sampler.restore(state["sampler"])
        losses = list(state["losses"])
    objective = accelerator.prepare_model(Objective(network, recipe))
    network.train()
    for step in range(len(losses), schedule.steps):
        for group in optimiser.param_groups:
            group["lr"] = schedule.learning_rate * recipe.learning_rate_factor(step, schedule.steps)
        chosen = sampler.draw(schedule.batch_size)
        batch = data.batch(chosen, recipe, np.random.default_rng([schedule.seed, step]))
        share = _share(batch, accelerator.process_index, accelerator.num_processes, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16(device, data.images.shape[2])):
            loss = objective(share)
        # Gradients are averaged over processes, whose shares may differ by one image.
        loss = loss * (len(share.labels) * accelerator.num_processes / len(chosen))
        value = accelerator.reduce(loss.detach(), "mean").item()
        if not np.isfinite(value):
            raise AbortedError(
                "TRAINING_DIVERGED",
                f"the loss became {value} at step {step + 1}; lower the learning rate (now {schedule.learning_rate:g})",
            )
        optimiser.zero_grad(set_to_none=True)
        accelerator.backward(loss)
        optimiser.step()
        losses.append(value)
        done = step + 1
        if done == schedule.steps:
            recalibrate(network, data, schedule, device)
        on_step(done, value)
        if done % checkpoint_every == 0 or done == schedule.steps:
            checkpoint(
                done,
                {
                    "model": network.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "sampler": sampler.state(),
                    "losses": losses,
                },
            )
    if network is not model:
        model.load_state_dict(network.state_dict())
    model.eval()
    return losses


def _share(batch: Batch, process: int, processes: int, device: torch.device) -> Batch:
    """What one of several processes learns from: a block of the batch, in which defects and normals take turns, on its
    device."""

    def block(values: Tensor) -> Tensor:
        return values.tensor_split(processes)[process].to(device)

    return Batch(
        block(batch.images),
        block(batch.labels),
        None if batch.masks is None else block(batch.masks),
        None if batch.has_mask is None else block(batch.has_mask),
    )


@torch.no_grad()
def recalibrate(model: ResNetClassifier, data: TrainingSet, schedule: Schedule, device: torch.device) -> None:
    """Replace the running statistics of batch normalisation by plain means over balanced batches, final weights.

    The running ones are an exponential mean with momentum 0.1 over weights that were still moving; after one or
    two hundred steps they lag behind, and evaluation with them is far off what training saw ("precise BN",
    Wu and Johnson 2021).
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative mean
    sampler = BalancedSampler(data.positives, data.negatives, schedule.seed)
    model.train()
    for _ in range(min(RECALIBRATION_BATCHES, schedule.steps)):
        batch = torch.from_numpy(data.images[sampler.draw(schedule.batch_size)]).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16(device, data.images.shape[2])):
            model.logits(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def predict(model: ResNetClassifier, images: np.ndarray, device: torch.device) -> np.ndarray:
    """Probabilities in float32 by eager PyTorch. images: uint8, N x H x W x 3. Returns float32, N."""
    return _run(model, images, device, output=0)


def predict_logits(model: ResNetClassifier, images: np.ndarray, device: torch.device) -> np.ndarray:
    """As `predict`, before the sigmoid."""
    return _run(model, images, device, output=1)


@torch.no_grad()
def _run(model: ResNetClassifier, images: np.ndarray, device: torch.device, output: int) -> np.ndarray:
    model.eval()
    batches = [
        model(torch.from_numpy(np.ascontiguousarray(images[start : start + 8])).to(device))[output].squeeze(1).cpu()
        for start in range(0, len(images), 8)
    ]
    return torch.cat(batches).numpy() if batches else np.empty(0, dtype=np.float32)


def has_bfloat16(device: torch.device, width: int) -> bool:
    """Whether bf16 arithmetic is in hardware, and right, for images so many pixels wide. Emulated, it is slower than
    fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if width < _LEAST_WIDTH:
        return False
    try:
        return " avx512_bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
