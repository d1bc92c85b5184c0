"""Optimisation of one network: balanced batches, bf16 where the processor has it, exact resume."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from flawsmith.classification.model import ResNet50Classifier
from flawsmith.classification.recipes import Recipe
from flawsmith.classification.sampling import BalancedSampler
from flawsmith.common.errors import AbortedError

RECALIBRATION_BATCHES = 40
"""At most; enough for batch statistics to settle (their error falls with the root of the number)."""


@dataclass(frozen=True)
class Schedule:
    """steps: optimiser steps. batch_size, learning_rate: as used. seed: of sampling and flips."""

    steps: int
    batch_size: int
    learning_rate: float
    seed: int


@dataclass(frozen=True)
class TrainingSet:
    """images: uint8, N x H x W x 3 (may be memory-mapped). positives, negatives: indices into it."""

    images: np.ndarray
    positives: tuple[int, ...]
    negatives: tuple[int, ...]


def fit(
    model: ResNet50Classifier,
    data: TrainingSet,
    recipe: Recipe,
    schedule: Schedule,
    *,
    device: torch.device,
    state: dict[str, Any] | None = None,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    checkpoint: Callable[[int, dict[str, Any]], None] = lambda step, state: None,
    checkpoint_every: int = 100,
) -> float:
    """Train `model` in place and return the mean loss of the last tenth of the steps.

    state: of a former call's checkpoint; continues exactly as if never stopped (same device and threads).
    on_step: called with (steps done, loss). checkpoint: called with (steps done, state) every `checkpoint_every`
    steps and at the end; the state refers to live tensors, so write it before returning.
    The loss is binary cross-entropy with logits. Flips depend on seed and step alone, so they need no state.
    Batch-normalisation statistics are measured anew at the end (`recalibrate`), which is part of the last step.
    Raises AbortedError TRAINING_DIVERGED when the loss is not finite.
    """
    sampler = BalancedSampler(data.positives, data.negatives, schedule.seed)
    model.to(device=device, memory_format=torch.channels_last)
    optimiser = recipe.optimiser(model.parameters(), schedule.learning_rate)
    losses: list[float] = []
    if state is not None:
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        sampler.restore(state["sampler"])
        losses = list(state["losses"])
    labels = np.zeros(len(data.images), dtype=np.float32)
    labels[list(data.positives)] = 1.0
    model.train()
    for step in range(len(losses), schedule.steps):
        for group in optimiser.param_groups:
            group["lr"] = schedule.learning_rate * recipe.learning_rate_factor(step, schedule.steps)
        chosen = sampler.draw(schedule.batch_size)
        batch = recipe.augment(data.images[chosen], np.random.default_rng([schedule.seed, step]))
        with torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16(device)):
            logits = model.logits(torch.from_numpy(batch).to(device))
        targets = torch.from_numpy(labels[chosen]).to(device)
        loss = functional.binary_cross_entropy_with_logits(logits.squeeze(1), targets)
        value = loss.item()
        if not np.isfinite(value):
            raise AbortedError(
                "TRAINING_DIVERGED",
                f"the loss became {value} at step {step + 1}; lower the learning rate (now {schedule.learning_rate:g})",
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        losses.append(value)
        done = step + 1
        if done == schedule.steps:
            recalibrate(model, data, schedule, device)
        on_step(done, value)
        if done % checkpoint_every == 0 or done == schedule.steps:
            checkpoint(
                done,
                {
                    "model": model.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "sampler": sampler.state(),
                    "losses": losses,
                },
            )
    model.eval()
    return float(np.mean(losses[-max(1, schedule.steps // 10) :]))


@torch.no_grad()
def recalibrate(model: ResNet50Classifier, data: TrainingSet, schedule: Schedule, device: torch.device) -> None:
    """Replace the running statistics of batch normalisation by plain means over balanced batches, final weights.

    The running ones are an exponential mean with momentum 0.1 over weights that were still moving; after one or
    two hundred steps they lag behind, and evaluation with them is far off what training saw ("precise BN",
    Wu and Johnson 2021).
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative mean
    sampler = BalancedSampler(data.positives, data.negatives, schedule.seed)
    model.train()
    for _ in range(min(RECALIBRATION_BATCHES, schedule.steps)):
        batch = torch.from_numpy(data.images[sampler.draw(schedule.batch_size)]).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16(device)):
            model.logits(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


@torch.no_grad()
def predict(model: ResNet50Classifier, images: np.ndarray, device: torch.device) -> np.ndarray:
    """Probabilities in float32 by eager PyTorch. images: uint8, N x H x W x 3. Returns float32, N."""
    model.eval()
    batches = [
        model(torch.from_numpy(np.ascontiguousarray(images[start : start + 8])).to(device))[0].squeeze(1).cpu()
        for start in range(0, len(images), 8)
    ]
    return torch.cat(batches).numpy() if batches else np.empty(0, dtype=np.float32)


def has_bfloat16(device: torch.device) -> bool:
    """Whether bf16 arithmetic is in hardware; emulated, it is slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        return " avx512_bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
