"""A latent diffusion model of Stable Diffusion's module layout, and what can be asked of it.

UNets with 4 input channels (text-to-image) and with 9 (inpainting: noisy latents, mask, latents of the masked image)
serve alike: for a 9-channel one, an all-ones mask over a blank image is text-to-image.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from flawsmith.common.errors import FailedPreconditionError, FieldViolation, InvalidArgumentError
from flawsmith.generation.spec import MAX_SIDE, MIN_SIDE, Precision

PARTS = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
PREDICTION_TYPES = ("epsilon", "v_prediction")


@dataclass
class LatentDiffusionModel:
    """The parts of a model. scheduler: its noise schedule and what its UNet predicts, as the DDIM sampler."""

    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    unet: UNet2DConditionModel
    scheduler: DDIMScheduler

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.unet.parameters()).device

    def precision(self, name: Precision) -> torch.autocast:
        """A context in which the networks run at a precision; `auto` is bfloat16 where the device is quick at it."""
        kind = self.device.type
        quick = torch.cuda.is_bf16_supported() if kind == "cuda" else torch.cpu._is_avx512_bf16_supported()
        return torch.autocast(kind, torch.bfloat16, enabled=name == "bfloat16" or (name == "auto" and quick))

    @property
    def size_multiple(self) -> int:
        """Heights and widths must be multiples of it: pixels a latent."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return int(self.vae.config.latent_channels)

    def check_size(self, height: int, width: int) -> None:
        """Raise InvalidArgumentError (BAD_SIZE) for a size that the model cannot make."""
        problems = [
            FieldViolation(name, f"{value} is not a multiple of {self.size_multiple} within {MIN_SIDE}-{MAX_SIDE}")
            for name, value in (("height", height), ("width", width))
            if value % self.size_multiple or not MIN_SIDE <= value <= MAX_SIDE
        ]
        if problems:
            nearest = " x ".join(str(self.nearest_side(value)) for value in (height, width))
            raise InvalidArgumentError(
                "BAD_SIZE",
                f"the model cannot make {height} x {width} pixels (height x width): sides must be multiples of "
                f"{self.size_multiple}, from {MIN_SIDE} to {MAX_SIDE}; the nearest is {nearest}",
                fields=problems,
            )

    def nearest_side(self, pixels: int) -> int:
        """The nearest side that the model can make."""
        multiple = self.size_multiple
        low, high = -(-MIN_SIDE // multiple) * multiple, MAX_SIDE // multiple * multiple
        return min(max(round(pixels / multiple) * multiple, low), high)

    def encode_prompts(self, prompts: Sequence[str], *, clip_skip: int = 1) -> torch.Tensor:
        """Text embeddings, N x tokens x width.

        clip_skip: which layer from the end; others than 1 pass the final norm as well, as in kohya's scripts.
        Raises InvalidArgumentError (PROMPT_TOO_LONG): words beyond the model's window would be dropped in silence.
        """
        window = int(self.text_encoder.config.max_position_embeddings)
        encoded = self.tokenizer(list(prompts)).input_ids
        long = [prompt for prompt, ids in zip(prompts, encoded, strict=True) if len(ids) > window]
        if long:
            raise InvalidArgumentError(
                "PROMPT_TOO_LONG", f"the model reads {window - 2} tokens; shorten: {'; '.join(long)}"
            )
        tokens = self.tokenizer(
            list(prompts), padding="max_length", max_length=window, truncation=True, return_tensors="pt"
        ).input_ids.to(self.device)
        if clip_skip == 1:
            return torch.as_tensor(self.text_encoder(tokens).last_hidden_state)
        hidden = self.text_encoder(tokens, output_hidden_states=True).hidden_states
        if clip_skip >= len(hidden):
            raise InvalidArgumentError(
                "CLIP_SKIP_TOO_LARGE", f"the text encoder has {len(hidden) - 1} layers; clip_skip was {clip_skip}"
            )
        return torch.as_tensor(self.text_encoder.text_model.final_layer_norm(hidden[-clip_skip]))

    @torch.no_grad()
    def encode_images(self, images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (uint8, N x H x W x 3) as distributions of scaled latents: means and standard deviations, each
        N x channels x H / multiple x W / multiple, float32."""
        pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
        means, deviations = [], []
        for batch in pixels.split(4):
            distribution = self.vae.encode(batch.to(self.device, self.vae.dtype)).latent_dist
            means.append(distribution.mean.float())
            deviations.append(distribution.std.float())
        scale = float(self.vae.config.scaling_factor)
        return torch.cat(means) * scale, torch.cat(deviations) * scale

    @torch.no_grad()
    def decode_latents(self, latents: torch.Tensor) -> np.ndarray:
        """Scaled latents as images, uint8, N x H x W x 3.

        Values that are not finite become black, which `quality.check_images` refuses.
        """
        images = []
        for batch in latents.split(4):
            decoded = self.vae.decode((batch / self.vae.config.scaling_factor).to(self.vae.dtype)).sample
            scaled = (decoded.float() / 2 + 0.5).nan_to_num(nan=0.0).clamp(0, 1)
            images.append((scaled * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu())
        return np.asarray(torch.cat(images).numpy())

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
        blank = torch.zeros(1, 3, height, width, device=self.device, dtype=self.vae.dtype)
        masked = self.vae.encode(blank).latent_dist.mean * self.vae.config.scaling_factor
        return torch.cat([torch.ones_like(masked[:, :1]), masked], dim=1).float()

    def training_target(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """What the UNet should answer to `scheduler.add_noise(latents, noise, timesteps)`, of the latents' shape: the
        noise, or the velocity `sqrt(a) * noise - sqrt(1 - a) * latents` (Salimans and Ho 2022)."""
        if self.prediction_type == "epsilon":
            return noise
        return torch.as_tensor(self.scheduler.get_velocity(latents, noise, timesteps))

    @property
    def prediction_type(self) -> str:
        """`epsilon` or `v_prediction`."""
        return str(self.scheduler.config.prediction_type)

    def predict(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        embeddings: torch.Tensor,
        conditioning: torch.Tensor | None,
    ) -> torch.Tensor:
        """The UNet's answer, N x channels x h x w: an estimate of `training_target`.

        conditioning: what `text_conditioning` returned.
        """
        if conditioning is not None:
            latents = torch.cat([latents, conditioning.expand(len(latents), -1, -1, -1)], dim=1)
        dtype = self.unet.dtype
        inputs = latents.to(dtype).contiguous(memory_format=torch.channels_last)
        return torch.as_tensor(self.unet(inputs, timesteps, embeddings.to(dtype)).sample)


def load_model(
    folder: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> LatentDiffusionModel:
    """Load a model from a folder in diffusers' layout (model_index.json, vae/, text_encoder/, tokenizer/, unet/,
    scheduler/). Nothing is downloaded.

    Raises FailedPreconditionError: BASE_MODEL_INCOMPLETE (files are missing or unreadable), BASE_MODEL_UNSUPPORTED
    (another layout, or another prediction type).
    """
    missing = [part for part in PARTS if not (folder / part).is_dir()]
    if missing:
        raise FailedPreconditionError(
            "BASE_MODEL_INCOMPLETE", f"the base model lacks {', '.join(missing)}; install it again"
        )
    options: dict[str, Any] = {"torch_dtype": dtype, "local_files_only": True}
    try:
        variants = {part: _variant(folder / part) for part in ("vae", "unet", "text_encoder")}
        vae = AutoencoderKL.from_pretrained(folder / "vae", variant=variants["vae"], **options)
        unet = UNet2DConditionModel.from_pretrained(folder / "unet", variant=variants["unet"], **options)
        text_encoder = CLIPTextModel.from_pretrained(
            folder / "text_encoder", variant=variants["text_encoder"], dtype=dtype, local_files_only=True
        )
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        schedule = json.loads((folder / "scheduler/scheduler_config.json").read_text())
    except (OSError, ValueError, KeyError) as error:
        raise FailedPreconditionError(
            "BASE_MODEL_INCOMPLETE", f"the base model cannot be loaded ({error}); install it again"
        ) from error
    if schedule.get("prediction_type", "epsilon") not in PREDICTION_TYPES:
        raise FailedPreconditionError(
            "BASE_MODEL_UNSUPPORTED",
            f"{schedule['prediction_type']} prediction is not supported; {' and '.join(PREDICTION_TYPES)} are",
        )
    # Clipping x0 to [-1, 1] is for pixels; latents go beyond.
    scheduler = DDIMScheduler.from_config({**schedule, "clip_sample": False})
    for part in (vae, unet, text_encoder):
        part.requires_grad_(False).eval().to(device)
    for part in (vae, unet):
        # Twice the speed at bfloat16 on CPUs that have it, and no slower elsewhere.
        part.to(memory_format=torch.channels_last)
    return LatentDiffusionModel(vae, text_encoder, tokenizer, unet, scheduler)


def _variant(folder: Path) -> str | None:
    """`fp16` where only half precision weights were stored."""
    files = [path.name for path in folder.glob("*.safetensors")]
    return "fp16" if files and all(".fp16." in name for name in files) else None
