"""The mini base model's autoencoder: 4x downsampling, four latent channels, small learned KL."""

import copy
import logging
import time
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from training.mini_data import ByteArray, crop_batch, draw_bank

logger = logging.getLogger(__name__)

_CROP = 64
_BATCH = 8
_BANK = 4000
_KL_WEIGHT = 1e-4
_DEVIATION = 1.0


def build_autoencoder() -> AutoencoderKL:
    """0.9 M parameters. No attention: cost and quality do not depend on the image's size."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=16,
        sample_size=128,
        mid_block_add_attention=False,
    )


def to_tensor(images: ByteArray) -> torch.Tensor:
    """uint8 N x H x W x 3 to float32 N x 3 x H x W in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_images(tensor: torch.Tensor) -> ByteArray:
    """float N x 3 x H x W in [-1, 1] to uint8 N x H x W x 3."""
    array = ((tensor.float().clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 1)
    return np.asarray(array.to(torch.uint8).numpy())


def reconstruction_loss(output: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Weighted L1 with extra terms for what a small autoencoder loses first.

    Args:
        output, target: N x 3 x H x W in [-1, 1].
        mask: N x 1 x H x W, 1 on defects.

    - Pixels on defects and on thin lines, bright or dark, weigh more.
    - Differences of neighbours: sharp edges.
    - 4x4 means: no colour blotches; the differences between red, green and blue weigh most, for a picture's colour is
      only a small part of its pixels' error and would otherwise be kept along one axis alone.
    - Local contrast: where the texture cannot be copied exactly, it should at least be as strong.
    """
    detail = target - F.avg_pool2d(F.pad(target, (2, 2, 2, 2), mode="reflect"), 5, 1)
    weight = 1 + 3 * mask + 6 * detail.abs().mean(1, keepdim=True)
    pixels = (weight * (output - target).abs()).mean() / weight.mean()
    down = (output.diff(dim=2) - target.diff(dim=2)).abs().mean()
    across = (output.diff(dim=3) - target.diff(dim=3)).abs().mean()
    blotch = F.avg_pool2d(output - target, 4)
    tint = blotch - blotch.mean(1, keepdim=True)
    output_detail = output - F.avg_pool2d(F.pad(output, (2, 2, 2, 2), mode="reflect"), 5, 1)
    contrast = (
        F.avg_pool2d(output_detail.square(), 8).add(1e-4).sqrt() - F.avg_pool2d(detail.square(), 8).add(1e-4).sqrt()
    )
    return (
        pixels + 0.5 * (down + across) + 4 * blotch.abs().mean() + 12 * tint.abs().mean() + 0.5 * contrast.abs().mean()
    )


def train_autoencoder(folder: Path, steps: int, seed: int) -> None:
    """Trains for `steps` in all, continuing from folder/vae.pt when it exists; writes folder/vae/ (the average)."""
    torch.manual_seed(seed)
    model = build_autoencoder()
    average = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=1e-4)
    checkpoint = folder / "vae.pt"
    step = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location="cpu")
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    bank = draw_bank(seed, _BANK, 128)
    started, begun = time.monotonic(), step
    running = 0.0
    while step < steps:
        rng = np.random.default_rng([seed, step])
        images, masks = crop_batch(rng, bank, _BATCH, _CROP)
        target = to_tensor(images)
        mask = torch.from_numpy(masks[:, None]).float() / 255
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, 1e-3)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = model.encode(target).latent_dist
            output = model.decode(posterior.sample()).sample
        loss = reconstruction_loss(output.float(), target, mask)
        loss = loss + _KL_WEIGHT * posterior.kl().mean() / posterior.mean[0].numel()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        update_average(average, model, min(0.999, step / (step + 20)))
        running = 0.98 * running + 0.02 * loss.item() if running else loss.item()
        if step % 100 == 0:
            rate = (step - begun) / (time.monotonic() - started)
            logger.info("vae step %d loss %.4f %.1f steps/s", step, running, rate)
        if step % 500 == 0 or step == steps:
            _save(folder, checkpoint, model, average, optimizer, step)


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Warm-up over 200 steps, constant, then linear to 0 over the last third."""
    return peak * min(1.0, (step + 1) / 200, 3 * (steps - step) / steps)


def update_average(average: torch.nn.Module, model: torch.nn.Module, decay: float) -> None:
    """average <- decay * average + (1 - decay) * model, for every parameter."""
    with torch.no_grad():
        torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)


def balance_channels(model: AutoencoderKL, latents: torch.Tensor) -> None:
    """Rescales a model's latents, each channel by itself, without a change to its pictures: within a picture they
    deviate by _DEVIATION afterwards, and the scaling factor is 1.

    Left as trained, most of the latents' variance is which colour a picture has, and textures are so faint beside it
    that the least noise covers them: a diffusion model would draw all of them in its last few steps.

    latents: the means that the model encodes some pictures to, N x 4 x h x w.
    """
    inner = latents - latents.mean(dim=(2, 3), keepdim=True)
    gain = _DEVIATION / inner.std(dim=(0, 2, 3))
    channels = len(gain)
    with torch.no_grad():
        # The encoder's last layer gives means, then logarithms of variances.
        model.quant_conv.weight[:channels] *= gain[:, None, None, None]
        model.quant_conv.bias[:channels] *= gain
        model.quant_conv.bias[channels:] += 2 * gain.log()
        model.post_quant_conv.weight /= gain[None, :, None, None]
    model.register_to_config(scaling_factor=1.0)


def _save(
    folder: Path,
    checkpoint: Path,
    model: AutoencoderKL,
    average: AutoencoderKL,
    optimizer: torch.optim.Optimizer,
    step: int,
) -> None:
    state = {
        "model": model.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
    }
    # Written aside and moved, so that a killed run leaves the previous checkpoint whole.
    torch.save(state, checkpoint.with_suffix(".tmp"))
    checkpoint.with_suffix(".tmp").replace(checkpoint)
    sample = draw_bank(7, 16, 128).images
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        latents = average.encode(to_tensor(sample)).latent_dist.mean
        decoded = to_images(average.decode(latents).sample)
    exported = copy.deepcopy(average)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        balance_channels(exported, exported.encode(to_tensor(draw_bank(8, 64, 128).images)).latent_dist.mean.float())
    exported.save_pretrained(folder / "vae")
    rows = [np.concatenate(list(group), 1) for group in (sample[:8], decoded[:8], sample[8:], decoded[8:])]
    cv2.imwrite(str(folder / "vae.png"), cv2.cvtColor(np.concatenate(rows, 0), cv2.COLOR_RGB2BGR))
