"""The mini base model's UNet, trained together with its text encoder on cached latents."""

import copy
import json
import logging
import re
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextModel, CLIPTokenizer

from training.mini_autoencoder import learning_rate, update_average
from training.mini_text import TEXT_ENCODER, build_text_encoder, open_tokenizer, tokenize

logger = logging.getLogger(__name__)

_PEAK_RATE = 8e-4
_TEXT_PEAK_RATE = 1e-4  # it has learnt before
_CAPTION_DROPOUT = 0.1
# Quarter windows: three times as many pictures a second, same pixels per inch.
_WINDOW, _WINDOW_BATCH, _FULL_BATCH = 16, 32, 8
# What is learnt last is taken this much more often: faint shades on a surface, what looks like something else, nothing.
_SHARES = {"dent": 5.0, "concrete": 3.0, "chip": 8.0, "brushed": 5.0}
_GOOD_SHARE = 4.0


def build_unet(text_width: int) -> UNet2DConditionModel:
    """11.9 M parameters; attention at half and quarter of the latents' size only, where it is cheap. Textures as fine
    as a latent pixel are drawn by the first level alone, so it is wide."""
    return UNet2DConditionModel(
        sample_size=32,
        in_channels=9,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(96, 128, 192),
        layers_per_block=1,
        cross_attention_dim=text_width,
        attention_head_dim=(3, 4, 6),
        norm_num_groups=16,
    )


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule, rescaled to end in pure noise, with velocities predicted (Lin et al. 2023,
    "Common Diffusion Noise Schedules and Sample Steps Are Flawed").

    As published the schedule leaves a trace of the picture at its end. A model reads the overall colour there and not
    in the caption, and pictures drawn from pure noise come out grey: with latents as small as these, all of them.
    """
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )


class Denoiser(nn.Module):
    """UNet and text encoder, which learn together."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.text_encoder: CLIPTextModel = build_text_encoder(tokenizer)
        # A sixth quicker on CPUs.
        self.unet = build_unet(self.text_encoder.config.hidden_size).to(memory_format=torch.channels_last)

    def forward(self, inputs: torch.Tensor, timesteps: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """The predicted velocity, N x 4 x h x w; inputs N x 9 x h x w, timesteps N, tokens N x MAX_TOKENS."""
        context = self.text_encoder(tokens)[0]
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        predicted: torch.Tensor = self.unet(inputs, timesteps, context).sample
        return predicted


def share(caption: str, defective: bool) -> float:
    """How often a picture is taken, where most are taken once."""
    found = [often for word, often in _SHARES.items() if re.search(rf"\b{word}", caption)]
    return max([1.0, *found] if defective else [_GOOD_SHARE])


@dataclass
class LatentPool:
    """All cached samples, in memory; grows while the writer adds chunks."""

    folder: Path
    tokenizer: CLIPTokenizer
    scale: float

    def __post_init__(self) -> None:
        self._seen: set[str] = set()
        self.latents = torch.zeros(0)
        self.masked = torch.zeros(0)
        self.mask = torch.zeros(0)
        self.defect = torch.zeros(0)
        self.tokens = torch.zeros(0, dtype=torch.long)
        self.shares = torch.zeros(0, dtype=torch.float64)
        self.refresh()

    def refresh(self) -> None:
        """Reads the chunks written since the last call; waits for the first."""
        while not (fresh := [p for p in sorted(self.folder.glob("[0-9]*[0-9].npz")) if p.name not in self._seen]):
            if self._seen:
                return
            time.sleep(2)
        for path in fresh:
            with np.load(path) as chunk:
                captions = json.loads(str(chunk["captions"]))
                defective = chunk["defect"].any(axis=(1, 2))
                shares = [share(text, bool(bad)) for text, bad in zip(captions, defective, strict=True)]
                parts = (
                    torch.from_numpy(chunk["latents"]).float() * self.scale,
                    torch.from_numpy(chunk["masked"]).float() * self.scale,
                    torch.from_numpy(chunk["mask"])[:, None].float(),
                    torch.from_numpy(chunk["defect"])[:, None].float(),
                    tokenize(self.tokenizer, captions),
                    torch.tensor(shares, dtype=torch.float64),
                )
            if self._seen:
                old = (self.latents, self.masked, self.mask, self.defect, self.tokens, self.shares)
                parts = tuple(torch.cat(pair) for pair in zip(old, parts, strict=True))
            self.latents, self.masked, self.mask, self.defect, self.tokens, self.shares = parts
            self._seen.add(path.name)

    def batch(self, rng: np.random.Generator, count: int, window: int) -> dict[str, torch.Tensor]:
        """`count` samples, cut to window x window around their defects when that is less than the whole."""
        ends = np.cumsum(self.shares.numpy())
        indices = np.searchsorted(ends, rng.random(count) * ends[-1], side="right")
        size = self.latents.shape[-1]
        samples: dict[str, list[torch.Tensor]] = {"latents": [], "masked": [], "mask": [], "defect": []}
        for index in indices:
            top, left = rng.integers(0, size - window + 1, 2)
            rows, columns = torch.nonzero(self.defect[index, 0], as_tuple=True)
            if window < size and len(rows):
                pixel = int(rng.integers(0, len(rows)))
                shift = rng.integers(window // 4, window - window // 4, 2)
                top = int(np.clip(int(rows[pixel]) - shift[0], 0, size - window))
                left = int(np.clip(int(columns[pixel]) - shift[1], 0, size - window))
            for name, parts in samples.items():
                parts.append(getattr(self, name)[index, :, top : top + window, left : left + window])
        stacked = {name: torch.stack(parts) for name, parts in samples.items()}
        return {**stacked, "tokens": self.tokens[torch.from_numpy(indices)].clone()}


def signal_to_noise(scheduler: DDIMScheduler, timesteps: torch.Tensor) -> torch.Tensor:
    """Ratio of the powers at each timestep, shape N."""
    kept = scheduler.alphas_cumprod[timesteps]
    return kept / (1 - kept)


def velocity_weights(scheduler: DDIMScheduler, timesteps: torch.Tensor) -> torch.Tensor:
    """What a squared error of the velocity counts at each timestep, shape N.

    Errors of the velocity are errors of the picture over `sqrt(1 - a)`, a = alphas_cumprod. Those count by the
    signal-to-noise ratio up to 5 and no further (min-SNR, Hang et al. 2023), but below 1 by its square root, as what
    surface it will be is decided there, and 0.1 at least, as its colour is where nothing but noise is left.
    """
    kept = scheduler.alphas_cumprod[timesteps]
    ratio = signal_to_noise(scheduler, timesteps)
    return (1 - kept) * ratio.sqrt().clamp(min=0.1).where(ratio < 1, ratio.clamp(max=5))


def velocity_loss(
    predicted: torch.Tensor, velocity: torch.Tensor, defect: torch.Tensor, ratio: torch.Tensor
) -> torch.Tensor:
    """Mean squared error of each sample, shape N; small defects weighted up where they can be seen.

    Where noise hides whether there is a defect at a place, a model predicts the mean of what may be there. Were errors
    on defects weighted up there as well, it would take defects for so many times as likely as they are, everywhere:
    pictures would get several of them, and good parts some too.

    Args:
        predicted, velocity: N x 4 x h x w.
        defect: N x 1 x h x w, 1 on defects; a defect's pixels share a weight that does not depend on its size much.
        ratio: N, of signal to noise; from 1 on the weight is whole.
    """
    share = defect.mean(dim=(1, 2, 3), keepdim=True)
    seen = ratio.clamp(max=1)[:, None, None, None]
    weight = 1 + seen * defect * (0.25 / share.clamp(min=1e-4)).clamp(1, 8)
    weight = weight / weight.mean(dim=(1, 2, 3), keepdim=True)
    return (weight * (predicted - velocity).square()).mean(dim=(1, 2, 3))


def train_diffusion(folder: Path, steps: int, seed: int, *, windows: float, compiled: bool = False) -> None:
    """Trains for `steps` in all, continuing from folder/diffusion.pt when it exists.

    The text encoder begins as `mini_text.train_text_encoder` left it.

    windows: share of the steps, the first ones, that see quarter windows; the others see whole pictures.
    compiled: by torch.compile, which takes five minutes and a C++ compiler first and is half again as fast then.
    """
    torch.manual_seed(seed)
    tokenizer = open_tokenizer(folder / "tokenizer")
    model = Denoiser(tokenizer)
    model.text_encoder.load_state_dict(torch.load(folder / TEXT_ENCODER))
    average = copy.deepcopy(model)
    groups = [
        {"params": list(model.text_encoder.parameters()), "peak": _TEXT_PEAK_RATE},
        {"params": list(model.unet.parameters()), "peak": _PEAK_RATE},
    ]
    optimizer = torch.optim.AdamW(groups, lr=_PEAK_RATE, betas=(0.9, 0.99), weight_decay=1e-3, fused=True)
    checkpoint = folder / "diffusion.pt"
    step = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location="cpu")
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        if state["optimizer"] is not None:  # what was exported has none
            optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    denoise: nn.Module = torch.compile(model, dynamic=False) if compiled else model
    scheduler = build_scheduler()
    empty = tokenize(tokenizer, [""])[0]
    scale = AutoencoderKL.from_pretrained(folder / "vae").config.scaling_factor
    pool = LatentPool(folder / "latents", tokenizer, scale)
    started, begun = time.monotonic(), step
    running = 0.0
    while step < steps:
        rng = np.random.default_rng([seed, 2, step])
        torch.manual_seed(int(rng.integers(2**31)))
        small = step < windows * steps
        batch = pool.batch(rng, _WINDOW_BATCH, _WINDOW) if small else pool.batch(rng, _FULL_BATCH, 32)
        clean = batch["latents"]
        count = len(clean)
        timesteps = torch.randint(0, 1000, (count,))
        noise = torch.randn_like(clean)
        noisy = scheduler.add_noise(clean, noise, timesteps)
        tokens = torch.where(torch.rand(count, 1) < _CAPTION_DROPOUT, empty, batch["tokens"])
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, group["peak"])
        # PyTorch's fused attention is a third slower on a CPU: its backward pass is poor at so few tokens.
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            predicted = denoise(torch.cat([noisy, batch["mask"], batch["masked"]], 1), timesteps, tokens)
        velocity = scheduler.get_velocity(clean, noise, timesteps)
        errors = velocity_loss(predicted.float(), velocity, batch["defect"], signal_to_noise(scheduler, timesteps))
        loss = (velocity_weights(scheduler, timesteps) * errors).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        update_average(average, model, min(0.998, step / (step + 50)))
        running = 0.99 * running + 0.01 * loss.item() if running else loss.item()
        if step % 100 == 0:
            pool.refresh()
            rate = (step - begun) / (time.monotonic() - started)
            logger.info("diffusion step %d loss %.4f %.2f steps/s %d samples", step, running, rate, len(pool.latents))
        if step % 250 == 0 or step == steps:
            state = {
                "model": model.state_dict(),
                "average": average.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step,
            }
            torch.save(state, checkpoint.with_suffix(".tmp"))
            checkpoint.with_suffix(".tmp").replace(checkpoint)
