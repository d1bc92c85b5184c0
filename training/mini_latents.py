"""Draws and encodes training pictures in a process of its own, so that the diffusion trainer never waits."""

import json
import logging
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from training.mini_autoencoder import to_tensor
from training.mini_data import ByteArray, draw_random, inpaint_mask, training_caption

logger = logging.getLogger(__name__)

SIZE = 128
CHUNK = 512
_ENCODE_BATCH = 8
_INPAINT_SHARE = 0.3


def write_latents(folder: Path, samples: int, seed: int) -> None:
    """Writes folder/latents/NNNN.npz until there are `samples` of them; existing chunks are kept.

    A chunk holds, for each of CHUNK samples (h = w = SIZE / 4):
        latents: float16, 4 x h x w, unscaled;
        masked: float16, 4 x h x w, of the picture with the region to repaint blanked (all of it for text-to-image);
        mask: uint8, h x w, 1 where to repaint;
        defect: uint8, h x w, 1 where any pixel is defective;
        captions: a JSON list.
    """
    target = folder / "latents"
    target.mkdir(exist_ok=True)
    model = AutoencoderKL.from_pretrained(folder / "vae").eval()
    blank = np.full((1, SIZE, SIZE, 3), 127.5, dtype=np.float32)
    blank_latent = _encode(model, torch.from_numpy(blank).permute(0, 3, 1, 2) / 127.5 - 1)
    for number in range(samples // CHUNK):
        path = target / f"{number:04d}.npz"
        if path.exists():
            continue
        rng = np.random.default_rng([seed, 1, number])
        torch.manual_seed(seed * 100_000 + number)
        drawings = [draw_random(rng, SIZE) for _ in range(CHUNK)]
        captions = [training_caption(rng, drawing) for drawing in drawings]
        inpainted = rng.random(CHUNK) < _INPAINT_SHARE
        masks = np.ones((CHUNK, SIZE, SIZE), dtype=np.uint8)
        for index in np.flatnonzero(inpainted):
            masks[index] = inpaint_mask(rng, drawings[index].mask)
        images = to_tensor(np.stack([drawing.image for drawing in drawings]))
        masked = np.repeat(blank_latent, CHUNK, axis=0)
        kept = torch.from_numpy(masks[inpainted, None] == 0)
        masked[inpainted] = _encode(model, images[torch.from_numpy(inpainted)] * kept)
        temporary = path.with_suffix(".tmp.npz")
        np.savez(
            temporary,
            latents=_encode(model, images),
            masked=masked,
            mask=masks[:, ::4, ::4],
            defect=np.stack([_shrink(drawing.mask) for drawing in drawings]),
            captions=np.array(json.dumps(captions)),
        )
        temporary.replace(path)
        logger.info("wrote %s", path.name)


def _shrink(mask: ByteArray) -> ByteArray:
    """A mask at the latents' size: 1 where any of the 4 x 4 pixels is set."""
    rows, columns = mask.shape[0] // 4, mask.shape[1] // 4
    return np.asarray(mask.reshape(rows, 4, columns, 4).max(axis=(1, 3)) > 0).astype(np.uint8)


@torch.no_grad()
def _encode(model: AutoencoderKL, images: torch.Tensor) -> np.ndarray:
    parts = []
    for batch in images.split(_ENCODE_BATCH):
        with torch.autocast("cpu", torch.bfloat16):
            parts.append(model.encode(batch).latent_dist.sample().half())
    return np.asarray(torch.cat(parts).numpy())
