"""Stable Diffusion 1.x: an autoencoder, one CLIP text encoder, a UNet.

UNets with 4 input channels (text-to-image) and with 9 (inpainting: noisy latents, mask, latents of the masked image)
serve alike: for a 9-channel one, an all-ones mask over a blank image is text-to-image.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from flawsmith.common.errors import FailedPreconditionError, InvalidArgumentError
from flawsmith.generation.diffusion import LatentDiffusionModel, load_part, read_schedule

PREDICTION_TYPES = ("epsilon", "v_prediction")


@dataclass
class StableDiffusion(LatentDiffusionModel):
    """The parts of a model. scheduler: its noise schedule and what its UNet predicts, as the DDIM sampler."""

    architecture = "stable-diffusion"

    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    unet: UNet2DConditionModel
    scheduler: DDIMScheduler
    _blank: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def load(cls, folder: Path, *, device: torch.device | str, dtype: torch.dtype) -> Self:
        model = cls(
            vae=load_part(AutoencoderKL, folder / "vae", dtype),
            text_encoder=load_part(CLIPTextModel, folder / "text_encoder", dtype),
            tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True),
            unet=load_part(UNet2DConditionModel, folder / "unet", dtype),
            scheduler=load_ddim(folder),
        )
        return model.frozen(model.vae, model.text_encoder, model.unet, device=device)

    def frozen(self, *networks: nn.Module, device: torch.device | str) -> Self:
        for part in (self.vae, self.unet):
            # Twice the speed at bfloat16 on CPUs that have it, and no slower elsewhere.
            part.to(memory_format=torch.channels_last)
        return super().frozen(*networks, device=device)

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        return {"lora_unet_": self.unet, "lora_te_": self.text_encoder}

    @property
    def size_multiple(self) -> int:
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def latent_channels(self) -> int:
        return int(self.vae.config.latent_channels)

    def encode_prompts(self, prompts: Sequence[str], *, clip_skip: int = 1) -> torch.Tensor:
        """Layers before the last pass the final norm as well, as in kohya's scripts."""
        window = int(self.text_encoder.config.max_position_embeddings)
        tokens = tokenize(self.tokenizer, prompts, window, self.device)
        if clip_skip == 1:
            return torch.as_tensor(self.text_encoder(tokens).last_hidden_state)
        hidden = self.text_encoder(tokens, output_hidden_states=True).hidden_states
        if clip_skip >= len(hidden):
            raise InvalidArgumentError(
                "CLIP_SKIP_TOO_LARGE", f"the text encoder has {len(hidden) - 1} layers; clip_skip was {clip_skip}"
            )
        return torch.as_tensor(self.text_encoder.text_model.final_layer_norm(hidden[-clip_skip]))

    def to_latents(self, mean: torch.Tensor, deviation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scale = float(self.vae.config.scaling_factor)
        return mean * scale, deviation * scale

    def from_latents(self, latents: torch.Tensor) -> torch.Tensor:
        return latents / self.vae.config.scaling_factor

    @torch.no_grad()
    def text_conditioning(self, height: int, width: int) -> torch.Tensor | None:
        """What a 9-channel UNet reads beside the noisy latents for text-to-image: 1 x 5 x h x w, an all-ones mask and
        the latents of a blank (mid-grey) image. None for a 4-channel UNet.

        Raises FailedPreconditionError (BASE_MODEL_UNSUPPORTED) for other UNets.
        """
        channels, latent = int(self.unet.config.in_channels), self.latent_channels
        if channels == latent:
            return None
        if channels != 2 * latent + 1:
            raise FailedPreconditionError(
                "BASE_MODEL_UNSUPPORTED", f"a UNet of {channels} input channels is neither text-to-image nor inpainting"
            )
        # As much work as a step of drawing, and the same for every image of a size: that of the last is kept.
        if (height, width) not in self._blank:
            blank = torch.zeros(1, 3, height, width, device=self.device, dtype=self.vae.dtype)
            # Kept for callers of any precision: the first one's must not show.
            with torch.autocast(self.device.type, enabled=False):
                masked = self.vae.encode(blank).latent_dist.mean * self.vae.config.scaling_factor
            self._blank.clear()
            self._blank[height, width] = torch.cat([torch.ones_like(masked[:, :1]), masked], dim=1).float()
        return self._blank[height, width]

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """`sqrt(a) * latents + sqrt(1 - a) * noise`."""
        return torch.as_tensor(self.scheduler.add_noise(latents, noise, timesteps))

    def signal_to_noise(self, timesteps: torch.Tensor) -> torch.Tensor:
        kept = self.scheduler.alphas_cumprod[timesteps]
        return torch.as_tensor(kept / (1 - kept))

    def sampler(self, steps: int, height: int, width: int) -> DDIMScheduler:
        scheduler = copy.deepcopy(self.scheduler)
        scheduler.set_timesteps(steps, device=self.device)
        return scheduler

    def training_target(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """The noise, or the velocity `sqrt(a) * noise - sqrt(1 - a) * latents` (Salimans and Ho 2022)."""
        if self.prediction_type == "epsilon":
            return noise
        return torch.as_tensor(self.scheduler.get_velocity(latents, noise, timesteps))

    @property
    def prediction_type(self) -> str:
        return str(self.scheduler.config.prediction_type)

    def predict(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        embeddings: torch.Tensor,
        conditioning: torch.Tensor | None,
    ) -> torch.Tensor:
        if conditioning is not None:
            latents = torch.cat([latents, conditioning.expand(len(latents), -1, -1, -1)], dim=1)
        # UNet2DConditionModel.dtype looks at every module, which takes a millisecond.
        dtype = next(self.unet.parameters()).dtype
        inputs = latents.to(dtype).contiguous(memory_format=torch.channels_last)
        return torch.as_tensor(self.unet(inputs, timesteps, embeddings.to(dtype)).sample)


def tokenize(tokenizer: CLIPTokenizer, prompts: Sequence[str], window: int, device: torch.device) -> torch.Tensor:
    """Prompts as token ids, N x window. Raises InvalidArgumentError (PROMPT_TOO_LONG)."""
    long = [
        prompt for prompt, ids in zip(prompts, tokenizer(list(prompts)).input_ids, strict=True) if len(ids) > window
    ]
    if long:
        raise InvalidArgumentError(
            "PROMPT_TOO_LONG", f"the model reads {window - 2} tokens; shorten: {'; '.join(long)}"
        )
    tokens = tokenizer(list(prompts), padding="max_length", max_length=window, truncation=True, return_tensors="pt")
    return torch.as_tensor(tokens.input_ids.to(device))


def load_ddim(folder: Path) -> DDIMScheduler:
    """A model's noise schedule as the DDIM sampler. Raises FailedPreconditionError (BASE_MODEL_UNSUPPORTED)."""
    schedule: dict[str, Any] = read_schedule(folder)
    if schedule.get("prediction_type", "epsilon") not in PREDICTION_TYPES:
        raise FailedPreconditionError(
            "BASE_MODEL_UNSUPPORTED",
            f"{schedule['prediction_type']} prediction is not supported; {' and '.join(PREDICTION_TYPES)} are",
        )
    # Clipping x0 to [-1, 1] is for pixels; latents go beyond.
    return DDIMScheduler.from_config({**schedule, "clip_sample": False})
