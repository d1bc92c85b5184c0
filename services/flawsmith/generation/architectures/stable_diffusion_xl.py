"""Stable Diffusion XL: two CLIP text encoders, and a UNet that is told the image's size.

No invisible watermark is put into images, as diffusers' pipeline does where the library for it is installed: a
classifier would learn it instead of defects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from flawsmith.generation.architectures.stable_diffusion import StableDiffusion, load_ddim, tokenize
from flawsmith.generation.diffusion import load_part


@dataclass
class StableDiffusionXL(StableDiffusion):
    """Stable Diffusion's parts, and the second text encoder with its tokenizer."""

    architecture = "stable-diffusion-xl"

    text_encoder_2: CLIPTextModelWithProjection
    tokenizer_2: CLIPTokenizer

    @classmethod
    def load(cls, folder: Path, *, device: torch.device | str, dtype: torch.dtype) -> Self:
        model = cls(
            vae=load_part(AutoencoderKL, folder / "vae", dtype),
            text_encoder=load_part(CLIPTextModel, folder / "text_encoder", dtype),
            text_encoder_2=load_part(CLIPTextModelWithProjection, folder / "text_encoder_2", dtype),
            tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True),
            tokenizer_2=CLIPTokenizer.from_pretrained(folder / "tokenizer_2", local_files_only=True),
            unet=load_part(UNet2DConditionModel, folder / "unet", dtype),
            scheduler=load_ddim(folder),
        )
        return model.frozen(model.vae, model.text_encoder, model.text_encoder_2, model.unet, device=device)

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        return {"lora_unet_": self.unet, "lora_te1_": self.text_encoder, "lora_te2_": self.text_encoder_2}

    def encode_prompts(self, prompts: Sequence[str], *, clip_skip: int = 1) -> torch.Tensor:
        """The layers before the last of both text encoders side by side, whatever `clip_skip` says: the UNet knows no
        others. The last row is the second one's pooled embedding, filled up with zeros."""
        first = self.text_encoder(
            tokenize(self.tokenizer, prompts, self._window(self.text_encoder), self.device), output_hidden_states=True
        )
        second = self.text_encoder_2(
            tokenize(self.tokenizer_2, prompts, self._window(self.text_encoder_2), self.device),
            output_hidden_states=True,
        )
        tokens = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        pooled = F.pad(second.text_embeds, (0, tokens.shape[-1] - second.text_embeds.shape[-1]))
        return torch.cat([tokens, pooled[:, None]], dim=1)

    def predict(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        embeddings: torch.Tensor,
        conditioning: torch.Tensor | None,
    ) -> torch.Tensor:
        height, width = (side * self.size_multiple for side in latents.shape[-2:])
        if conditioning is not None:
            latents = torch.cat([latents, conditioning.expand(len(latents), -1, -1, -1)], dim=1)
        dtype = self.unet.dtype
        # Size of the original, where it was cropped, size of the crop.
        time_ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=dtype, device=self.device)
        pooled = embeddings[:, -1, : self.text_encoder_2.config.projection_dim]
        predicted = self.unet(
            latents.to(dtype).contiguous(memory_format=torch.channels_last),
            timesteps,
            embeddings[:, :-1].to(dtype),
            added_cond_kwargs={"text_embeds": pooled.to(dtype), "time_ids": time_ids.expand(len(latents), -1)},
        )
        return torch.as_tensor(predicted.sample)

    @staticmethod
    def _window(text_encoder: CLIPTextModel | CLIPTextModelWithProjection) -> int:
        return int(text_encoder.config.max_position_embeddings)
