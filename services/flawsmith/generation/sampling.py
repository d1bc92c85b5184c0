"""Drawing latents by DDIM with classifier-free guidance."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch

from flawsmith.generation.diffusion import LatentDiffusionModel
from flawsmith.generation.signal_leak import SignalLeak, leaked_start


@torch.no_grad()
def sample_latents(
    model: LatentDiffusionModel,
    prompt: str,
    negative_prompt: str,
    *,
    height: int,
    width: int,
    steps: int,
    guidance: float,
    seeds: Sequence[int],
    clip_skip: int = 1,
    signal_leak: SignalLeak | None = None,
    on_step: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """Draw one latent image a seed from text, float32, N x channels x height / multiple x width / multiple, scaled.

    An image depends on its own seed only (on one device). guidance: 1 and below samples without. signal_leak: start
    from the product's mean image at that noise level, from pure noise at the schedule's end where None. on_step:
    called after each step with the number of steps done. Raises what `check_size` and `encode_prompts` raise.
    """
    model.check_size(height, width)
    shape = (model.latent_channels, height // model.size_multiple, width // model.size_multiple)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    # Drawn on the CPU, so that a seed means the same noise on every device.
    latents = torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(model.device)
    guided = guidance > 1
    embeddings = model.encode_prompts([negative_prompt, prompt] if guided else [prompt], clip_skip=clip_skip)
    embeddings = embeddings.repeat_interleave(len(seeds), dim=0)
    conditioning = model.text_conditioning(height, width)
    scheduler = copy.deepcopy(model.scheduler)
    scheduler.set_timesteps(steps, device=model.device)
    latents = latents * scheduler.init_noise_sigma
    timesteps = scheduler.timesteps
    if signal_leak is not None:
        last = signal_leak.start * scheduler.config.num_train_timesteps
        timesteps = timesteps[timesteps <= max(last, int(timesteps[-1]))]
        latents = leaked_start(latents, signal_leak.mean, scheduler.alphas_cumprod[int(timesteps[0])])
    for done, timestep in enumerate(timesteps, start=1):
        doubled = torch.cat([latents, latents]) if guided else latents
        predicted = model.predict(doubled, timestep, embeddings, conditioning).float()
        if guided:
            without, with_text = predicted.chunk(2)
            predicted = without + guidance * (with_text - without)
        latents = scheduler.step(predicted, timestep, latents).prev_sample
        if on_step is not None:
            on_step(done)
    return latents
