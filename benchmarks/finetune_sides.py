"""Two fine-tunings of one base model, each a process that trains rounds of steps on demand: ours, and the plain loop.

`python -m benchmarks.finetune_sides ours|plain`; a `Setup` on the first line of stdin, then a number of steps a line.
Each line is answered by one of JSON: what the steps took, their mean loss, and the process's peak memory so far.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.optimization import get_cosine_with_hard_restarts_schedule_with_warmup

from benchmarks.memory import resident
from flawsmith.generation.architectures.stable_diffusion import StableDiffusion
from flawsmith.generation.buckets import Placement
from flawsmith.generation.diffusion import LatentDiffusionModel, load_model
from flawsmith.generation.dreambooth import (
    MAX_GRADIENT_NORM,
    RESTARTS,
    WEIGHT_DECAY,
    Training,
    cache_latents,
)
from flawsmith.generation.lora import inject
from flawsmith.generation.spec import FineTuneSpec

STEPS = 1_000_000
"""More than are ever done: the learning rate stays near its start."""


@dataclass(frozen=True)
class Setup:
    """model: folder. images: .npy file, uint8, N x height x width x 3; as instance and as regularisation images.
    threads: of the CPU. plain_precision: of the plain loop, `float32` or `bfloat16` (accelerate's mixed precision)."""

    model: str
    images: str
    batch_size: int
    threads: int
    plain_precision: str

    @property
    def spec(self) -> FineTuneSpec:
        """C3Lier at In&Out's ranks, text encoder included; losses unweighted, so that both sides' can be compared."""
        return FineTuneSpec(
            batch_size=self.batch_size, min_snr_gamma=0.0, max_steps=STEPS, epochs=10_000, repeats=1000, clip_skip=1
        )


def ours(setup: Setup, model: LatentDiffusionModel, images: np.ndarray) -> Iterator[float]:
    """The loss of each step of our training."""
    height, width = images.shape[1:3]
    placements = [Placement((height, width), (height, width))] * len(images)
    instances = cache_latents(model, list(images), placements)
    prior = torch.cat([instance.means for instance in instances])
    training = Training(model, instances, {(prior.shape[-2], prior.shape[-1]): prior}, setup.spec)
    while True:
        yield training.step()


def plain(setup: Setup, model: LatentDiffusionModel, images: np.ndarray) -> Iterator[float]:
    """The loss of each step of a loop like that of diffusers' `train_dreambooth_lora.py` with `--train_text_encoder
    --with_prior_preservation`: images are encoded, and every prompt, in every step.

    In its favour: the images are tensors already, and what a 9-channel UNet reads beside them is made once.
    """
    assert isinstance(model, StableDiffusion)
    spec, device = setup.spec, model.device
    torch.manual_seed(spec.seed)
    sizes: dict[str, Any] = {
        "rank": spec.rank, "alpha": spec.rank_alpha, "conv_rank": spec.conv_rank, "conv_alpha": spec.conv_alpha,
    }  # fmt: skip
    parameters = [
        parameter
        for network in model.networks.values()
        for parameter in inject(network, spec.algorithm, **sizes)
    ]  # fmt: skip
    lower = setup.plain_precision != "float32"
    if lower:
        for network in (model.vae, model.unet, model.text_encoder):
            for parameter in network.parameters():
                if not parameter.requires_grad:
                    parameter.data = parameter.data.to(torch.bfloat16)
    optimizer = torch.optim.AdamW(parameters, lr=spec.unet_learning_rate, weight_decay=WEIGHT_DECAY)
    schedule = get_cosine_with_hard_restarts_schedule_with_warmup(optimizer, 0, STEPS, num_cycles=RESTARTS)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    tokens = model.tokenizer(
        [spec.instance_prompt] * setup.batch_size + [spec.class_prompt] * setup.batch_size,
        padding="max_length", max_length=model.text_encoder.config.max_position_embeddings, return_tensors="pt",
    ).input_ids.to(device)  # fmt: skip
    conditioning = model.text_conditioning(*images.shape[1:3])
    model.unet.train()
    model.text_encoder.train()
    order = np.random.default_rng(spec.seed)
    for _ in itertools.count():
        chosen = [order.integers(len(images), size=setup.batch_size) for _ in range(2)]
        batch = pixels[np.concatenate(chosen)].to(device, model.vae.dtype)
        latents = model.vae.encode(batch).latent_dist.sample() * model.vae.config.scaling_factor
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, model.scheduler.config.num_train_timesteps, (len(latents),), device=device)
        noisy = model.scheduler.add_noise(latents, noise, timesteps)
        target = model.training_target(latents, noise, timesteps)
        if conditioning is not None:
            noisy = torch.cat([noisy, conditioning.to(noisy.dtype).expand(len(noisy), -1, -1, -1)], dim=1)
        with torch.autocast(device.type, torch.bfloat16, enabled=lower):
            hidden = model.text_encoder(tokens).last_hidden_state
            predicted = model.unet(noisy, timesteps, hidden).sample
        instance, prior = predicted.float().chunk(2)
        instance_target, prior_target = target.float().chunk(2)
        loss = F.mse_loss(instance, instance_target) + spec.prior_weight * F.mse_loss(prior, prior_target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        yield loss.detach().item()


SIDES: dict[str, Callable[[Setup, LatentDiffusionModel, np.ndarray], Iterator[float]]] = {"ours": ours, "plain": plain}


def main() -> None:
    """Answer rounds until stdin ends."""
    setup = Setup(**json.loads(sys.stdin.readline()))
    torch.set_num_threads(setup.threads)
    torch.set_flush_denormal(True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    start = time.perf_counter()
    model = load_model(Path(setup.model), device=device)
    steps = SIDES[sys.argv[1]](setup, model, np.load(setup.images))
    next(steps)
    ready = time.perf_counter() - start
    for line in sys.stdin:
        cpu, start = time.process_time(), time.perf_counter()
        losses = [next(steps) for _ in range(int(line))]
        answer = {
            "seconds": time.perf_counter() - start,
            "cpu_seconds": time.process_time() - cpu,
            "steps": len(losses),
            "loss": sum(losses) / len(losses),
            "ready_seconds": ready,
            "trained": sum(p.numel() for net in model.networks.values() for p in net.parameters() if p.requires_grad),
            "peak_bytes": resident("VmHWM"),
            "peak_device_bytes": torch.cuda.max_memory_allocated() if device == "cuda" else None,
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
