"""What training and sampling ask of a base model, whatever its architecture, and how one is loaded.

Each architecture is a class of its own in `flawsmith.generation.architectures`.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import nn

from flawsmith.common.errors import FailedPreconditionError, FieldViolation, InvalidArgumentError
from flawsmith.generation.layouts import INDEX, architecture_of, select_files
from flawsmith.generation.spec import MAX_SIDE, MIN_SIDE, Precision


class LatentDiffusionModel(ABC):
    """A base model in memory. Latents are N x channels x h x w, scaled to about unit variance.

    architecture: its name, a key of `layouts.PARTS`. vae: its autoencoder. unet: what denoises latents (a
    transformer, in some). scheduler: the noise schedule as the sampler that `sampler` copies.
    """

    architecture: ClassVar[str]
    vae: Any
    unet: nn.Module
    scheduler: Any

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, *, device: torch.device | str, dtype: torch.dtype) -> Self:
        """Load a model whose parts are all there, frozen. Raises OSError, ValueError or KeyError for broken files, and
        FailedPreconditionError (BASE_MODEL_UNSUPPORTED)."""

    @property
    @abstractmethod
    def networks(self) -> Mapping[str, nn.Module]:
        """What adapters adapt, by the prefix of its layers' names in adapter files, as in kohya's scripts; first what
        denoises (`lora_unet_`), then text encoders."""

    @property
    @abstractmethod
    def size_multiple(self) -> int:
        """Heights and widths must be multiples of it: pixels a latent."""

    @property
    @abstractmethod
    def latent_channels(self) -> int:
        """Channels of the latents."""

    @abstractmethod
    def encode_prompts(self, prompts: Sequence[str], *, clip_skip: int = 1) -> torch.Tensor:
        """Text embeddings, N x tokens x width: for `predict` alone to read, but rows may be repeated and reordered.

        clip_skip: which layer of a CLIP text encoder, counted from the end; others have no such choice.
        Raises InvalidArgumentError (PROMPT_TOO_LONG): words beyond the model's window would be dropped in silence;
        CLIP_SKIP_TOO_LARGE.
        """

    @abstractmethod
    def text_conditioning(self, height: int, width: int) -> torch.Tensor | None:
        """What the model reads beside noisy latents for text-to-image, 1 x channels x h x w; None if nothing."""

    @abstractmethod
    def predict(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        embeddings: torch.Tensor,
        conditioning: torch.Tensor | None,
    ) -> torch.Tensor:
        """What the model answers, N x channels x h x w: an estimate of `training_target`.

        timesteps: N of them, or one. conditioning: what `text_conditioning` returned, 1 or N rows.
        """

    @property
    @abstractmethod
    def prediction_type(self) -> str:
        """`epsilon`, `v_prediction` or `flow`."""

    @property
    def train_timesteps(self) -> int:
        """How many timesteps training draws from: 0 is next to no noise."""
        return int(self.scheduler.config.num_train_timesteps)

    @abstractmethod
    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Latents as noisy as they are at N timesteps (or one)."""

    @abstractmethod
    def training_target(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """What the model should answer to `add_noise(latents, noise, timesteps)`, of the latents' shape."""

    @abstractmethod
    def signal_to_noise(self, timesteps: torch.Tensor) -> torch.Tensor:
        """Ratio of the variances of signal and noise at timesteps, of their shape, float32."""

    @abstractmethod
    def sampler(self, steps: int, height: int, width: int) -> Any:
        """A scheduler of its own for one drawing of height x width pixels in that many steps, from pure noise."""

    @abstractmethod
    def to_latents(self, mean: torch.Tensor, deviation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The autoencoder's distribution, N x its channels x its h x w, as one of latents."""

    @abstractmethod
    def from_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents as the autoencoder decodes them: the reverse of `to_latents`."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.unet.parameters()).device

    def precision(self, name: Precision) -> torch.autocast:
        """A context in which the networks run at a precision; `auto` is bfloat16 where the device is quick at it."""
        kind = self.device.type
        quick = torch.cuda.is_bf16_supported() if kind == "cuda" else torch.cpu._is_avx512_bf16_supported()
        if name == "float16":
            return torch.autocast(kind, torch.float16)
        return torch.autocast(kind, torch.bfloat16, enabled=name == "bfloat16" or (name == "auto" and quick))

    @property
    def native_side(self) -> int:
        """Pixels of the sides of the square images that the model was trained on; 1024 where it does not say so."""
        sample_size = self.unet.config.get("sample_size")
        return int(sample_size) * self.size_multiple if sample_size else 1024

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

    @torch.no_grad()
    def encode_images(self, images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (uint8, N x H x W x 3) as distributions of latents: means and standard deviations, each
        N x channels x H / multiple x W / multiple, float32."""
        pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
        means, deviations = [], []
        for batch in pixels.split(4):
            distribution = self.vae.encode(batch.to(self.device, self.vae.dtype)).latent_dist
            mean, deviation = self.to_latents(distribution.mean.float(), distribution.std.float())
            means.append(mean)
            deviations.append(deviation)
        return torch.cat(means), torch.cat(deviations)

    @torch.no_grad()
    def decode_latents(self, latents: torch.Tensor) -> np.ndarray:
        """Latents as images, uint8, N x H x W x 3.

        Values that are not finite become black, which `quality.check_images` refuses.
        """
        images = []
        for batch in latents.split(4):
            decoded = self.vae.decode(self.from_latents(batch).to(self.vae.dtype)).sample
            scaled = (decoded.float() / 2 + 0.5).nan_to_num(nan=0.0).clamp(0, 1)
            images.append((scaled * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu())
        return np.asarray(torch.cat(images).numpy())

    def frozen(self, *networks: nn.Module, device: torch.device | str) -> Self:
        """This model with its networks on the device, not trained, in evaluation mode."""
        for network in networks:
            network.requires_grad_(False).eval().to(device)
        return self


def load_model(
    folder: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> LatentDiffusionModel:
    """Load a model from a folder in diffusers' layout (model_index.json and a folder a part). Nothing is downloaded.

    Raises FailedPreconditionError: BASE_MODEL_INCOMPLETE (files are missing or unreadable), BASE_MODEL_UNSUPPORTED
    (another architecture, or another prediction type).
    """
    # Architectures derive from this module's class.
    from flawsmith.generation.architectures import ARCHITECTURES

    try:
        architecture = architecture_of((folder / INDEX).read_bytes())
        select_files([path.relative_to(folder).as_posix() for path in folder.rglob("*")], architecture)
        return ARCHITECTURES[architecture].load(folder, device=device, dtype=dtype)
    except (OSError, ValueError, KeyError) as error:
        raise FailedPreconditionError(
            "BASE_MODEL_INCOMPLETE", f"the base model cannot be loaded ({error}); install it again"
        ) from error


def read_schedule(folder: Path) -> dict[str, Any]:
    """A model's scheduler configuration."""
    values: dict[str, Any] = json.loads((folder / "scheduler/scheduler_config.json").read_text(encoding="utf-8"))
    return values


def load_part(kind: Any, folder: Path, dtype: torch.dtype) -> Any:
    """A network of a model from its folder's safetensors; `fp16` files serve where there are no others.

    kind: the class of diffusers or transformers.
    """
    files = [path.name for path in folder.glob("*.safetensors")]
    variant = "fp16" if files and all(".fp16." in name for name in files) else None
    return kind.from_pretrained(folder, variant=variant, torch_dtype=dtype, local_files_only=True, use_safetensors=True)
