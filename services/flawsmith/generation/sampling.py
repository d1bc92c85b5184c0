"""Drawing latents by DDIM with classifier-free guidance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from flawsmith.generation.diffusion import LatentDiffusionModel
from flawsmith.generation.signal_leak import SignalLeak, leaked_start


@dataclass(frozen=True)
class Repainting:
    """Images of which a part is painted anew.

    latents: of the images, scaled, N x channels x h x w. mask: N x 1 x h x w, 1 where to paint and 0 where to keep.
    conditioning: what a 9-channel UNet reads beside the noisy latents, N x 5 x h x w; None for one of 4 channels.
    strength: the part of the schedule that is run, from the images noised up to there, in (0, 1]; 1 begins with noise.
    """

    latents: torch.Tensor
    mask: torch.Tensor
    conditioning: torch.Tensor | None
    strength: float = 1.0


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
    repainting: Repainting | None = None,
    on_step: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """Draw one latent image a seed from text, float32, N x channels x height / multiple x width / multiple, scaled.

    An image depends on its own seed only (on one device). guidance: 1 and below samples without. signal_leak: start
    from the product's mean image at that noise level, from pure noise at the schedule's end where None. repainting:
    one image a seed, painted anew in part, as diffusers' StableDiffusionInpaintPipeline does. on_step: called after
    each step with the number of steps done. Raises what `check_size` and `encode_prompts` raise.
    """
    model.check_size(height, width)
    shape = (model.latent_channels, height // model.size_multiple, width // model.size_multiple)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    # Drawn on the CPU, so that a seed means the same noise on every device.
    noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(model.device)
    guided = guidance > 1
    embeddings = model.encode_prompts([negative_prompt, prompt] if guided else [prompt], clip_skip=clip_skip)
    embeddings = embeddings.repeat_interleave(len(seeds), dim=0)
    conditioning = repainting.conditioning if repainting else model.text_conditioning(height, width)
    if guided and conditioning is not None and len(conditioning) > 1:
        conditioning = torch.cat([conditioning, conditioning])
    scheduler = model.sampler(steps, height, width)
    latents, timesteps = noise, scheduler.timesteps
    if repainting is not None and repainting.strength < 1:
        timesteps = timesteps[-max(1, int(steps * repainting.strength)) :]
        latents = model.add_noise(repainting.latents, noise, timesteps[:1])
    elif signal_leak is not None:
        last = signal_leak.start * model.train_timesteps
        timesteps = timesteps[timesteps <= max(last, float(timesteps[-1]))]
        first = timesteps[:1]
        latents = leaked_start(noise, signal_leak.mean, lambda mean, noise: model.add_noise(mean, noise, first))
    for done, timestep in enumerate(timesteps, start=1):
        doubled = torch.cat([latents, latents]) if guided else latents
        predicted = model.predict(doubled, timestep, embeddings, conditioning).float()
        if guided:
            without, with_text = predicted.chunk(2)
            predicted = without + guidance * (with_text - without)
        latents = scheduler.step(predicted, timestep, latents).prev_sample
        if repainting is not None and conditioning is None:
            # A UNet that is not told what to keep sees it, at the noise level of the next step.
            kept = repainting.latents
            if done < len(timesteps):
                kept = model.add_noise(kept, noise, timesteps[done : done + 1])
            latents = (1 - repainting.mask) * kept + repainting.mask * latents
        if on_step is not None:
            on_step(done)
    return latents
