"""FLUX.2 [klein]: a rectified-flow transformer on patched latents, and a language model that reads the prompt.

Noisy latents are `(1 - s) * latents + s * noise` with s = timestep / 1000; the transformer answers with the velocity
`noise - latents`. Only the transformer learns.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2Transformer2DModel
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from torch import nn
from transformers import Qwen2TokenizerFast, Qwen3ForCausalLM

from flawsmith.common.errors import InvalidArgumentError
from flawsmith.generation.diffusion import LatentDiffusionModel, load_part

PROMPT_TOKENS = 512
TEXT_LAYERS = (9, 18, 27)
"""Hidden states of the language model that the transformer reads, side by side."""
PATCH = 2
"""Side of the squares of the autoencoder's latents that become channels of one latent here."""


@dataclass
class Flux2Klein(LatentDiffusionModel):
    """The parts of a model. unet: the transformer."""

    architecture = "flux2-klein"

    vae: AutoencoderKLFlux2
    text_encoder: Qwen3ForCausalLM
    tokenizer: Qwen2TokenizerFast
    unet: Flux2Transformer2DModel
    scheduler: FlowMatchEulerDiscreteScheduler

    @classmethod
    def load(cls, folder: Path, *, device: torch.device | str, dtype: torch.dtype) -> Self:
        # Two times four billion weights: on a GPU they stay in the precision that they are published in.
        large = torch.bfloat16 if torch.device(device).type == "cuda" else dtype
        model = cls(
            vae=load_part(AutoencoderKLFlux2, folder / "vae", dtype),
            text_encoder=load_part(Qwen3ForCausalLM, folder / "text_encoder", large),
            tokenizer=Qwen2TokenizerFast.from_pretrained(folder / "tokenizer", local_files_only=True),
            unet=load_part(Flux2Transformer2DModel, folder / "transformer", large),
            scheduler=FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler", local_files_only=True),
        )
        return model.frozen(model.vae, model.text_encoder, model.unet, device=device)

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        return {"lora_unet_": self.unet}

    @property
    def size_multiple(self) -> int:
        return int(PATCH * 2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def latent_channels(self) -> int:
        return int(self.vae.config.latent_channels) * PATCH**2

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str], *, clip_skip: int = 1) -> torch.Tensor:
        texts = [
            self.tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
            for prompt in prompts
        ]
        long = [
            prompt
            for prompt, ids in zip(prompts, self.tokenizer(texts).input_ids, strict=True)
            if len(ids) > PROMPT_TOKENS
        ]
        if long:
            raise InvalidArgumentError(
                "PROMPT_TOO_LONG", f"the model reads {PROMPT_TOKENS} tokens; shorten: {'; '.join(long)}"
            )
        tokens = self.tokenizer(texts, padding="max_length", max_length=PROMPT_TOKENS, return_tensors="pt")
        hidden = self.text_encoder(**tokens.to(self.device), output_hidden_states=True, use_cache=False).hidden_states
        return torch.cat([hidden[layer] for layer in TEXT_LAYERS], dim=-1)

    def text_conditioning(self, height: int, width: int) -> torch.Tensor | None:
        return None

    def predict(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        embeddings: torch.Tensor,
        conditioning: torch.Tensor | None,
    ) -> torch.Tensor:
        count, _, height, width = latents.shape
        dtype = self.unet.dtype
        predicted = self.unet(
            hidden_states=latents.flatten(2).transpose(1, 2).to(dtype),
            timestep=torch.as_tensor(timesteps, device=latents.device).expand(count).to(dtype) / self.train_timesteps,
            guidance=None,
            encoder_hidden_states=embeddings.to(dtype),
            txt_ids=_positions(1, 1, embeddings.shape[1]).expand(count, -1, -1).to(latents.device),
            img_ids=_positions(height, width, 1).expand(count, -1, -1).to(latents.device),
        ).sample
        return torch.as_tensor(predicted.transpose(1, 2).unflatten(2, (height, width)))

    @property
    def prediction_type(self) -> str:
        return "flow"

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        share = self._noise_share(timesteps).to(latents).reshape(-1, 1, 1, 1)
        return (1 - share) * latents + share * noise

    def training_target(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return noise - latents

    def signal_to_noise(self, timesteps: torch.Tensor) -> torch.Tensor:
        share = self._noise_share(timesteps)
        return ((1 - share) / share).square()

    def sampler(self, steps: int, height: int, width: int) -> FlowMatchEulerDiscreteScheduler:
        tokens = (height // self.size_multiple) * (width // self.size_multiple)
        scheduler = copy.deepcopy(self.scheduler)
        scheduler.set_timesteps(
            sigmas=np.linspace(1.0, 1 / steps, steps), mu=compute_empirical_mu(tokens, steps), device=self.device
        )
        return scheduler

    def to_latents(self, mean: torch.Tensor, deviation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        centre, spread = self._statistics(mean)
        return (F.pixel_unshuffle(mean, PATCH) - centre) / spread, F.pixel_unshuffle(deviation, PATCH) / spread

    def from_latents(self, latents: torch.Tensor) -> torch.Tensor:
        centre, spread = self._statistics(latents)
        return F.pixel_shuffle(latents * spread + centre, PATCH)

    def _statistics(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of each channel of unscaled patched latents, 1 x channels x 1 x 1."""
        norm = self.vae.bn
        spread = (norm.running_var + self.vae.config.batch_norm_eps).sqrt()
        return norm.running_mean.reshape(1, -1, 1, 1).to(like), spread.reshape(1, -1, 1, 1).to(like)

    def _noise_share(self, timesteps: torch.Tensor) -> torch.Tensor:
        return timesteps.float() / self.train_timesteps


def _positions(height: int, width: int, length: int) -> torch.Tensor:
    """Time, row, column and place in the text of each token: 1 x (height * width * length) x 4."""
    return torch.cartesian_prod(torch.arange(1), torch.arange(height), torch.arange(width), torch.arange(length))[None]
