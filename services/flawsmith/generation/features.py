"""What a base model's own image encoder sees of a defect, for comparing drawn defects with real ones."""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from flawsmith.generation.diffusion import LatentDiffusionModel
from flawsmith.generation.drawing_request import MaskedImages

RING = 0.12
"""Width of the neighbourhood that a defect is compared with, as a part of the image's longer side."""


@torch.no_grad()
def encoder_features(model: LatentDiffusionModel, masked: MaskedImages) -> np.ndarray:
    """One vector an image, float32, N x D, of length 1 (or 0 where nothing is to be seen).

    The autoencoder's last hidden layer before the latents, averaged over the mask, less its average over the mask's
    neighbourhood: what sets the defect off from the surface that it is in, whatever that surface is.
    """
    hidden: list[torch.Tensor] = []
    hook = model.vae.encoder.mid_block.register_forward_hook(lambda module, inputs, output: hidden.append(output))
    try:
        # One after the other: the rows of a batch may be computed at once, in any order.
        for image in masked.images:
            model.encode_images(image[None])
    finally:
        hook.remove()
    maps = torch.cat([output.float() for output in hidden])
    inside = _coarse(masked.masks, maps)
    ring = _coarse(np.stack([_ring(mask) for mask in masked.masks]), maps)
    contrast = _mean(maps, inside) - _mean(maps, ring)
    vectors = F.normalize(contrast, dim=1)
    return np.asarray(vectors.cpu().numpy(), dtype=np.float32)


def _ring(mask: np.ndarray) -> np.ndarray:
    reach = 2 * max(3, round(RING * max(mask.shape))) + 1
    return cv2.dilate(mask, np.ones((reach, reach), np.uint8)) & ~cv2.dilate(mask, np.ones((5, 5), np.uint8))


def _coarse(masks: np.ndarray, maps: torch.Tensor) -> torch.Tensor:
    """Share of each cell of the feature maps that a mask covers."""
    fine = torch.from_numpy(masks > 0)[:, None].float().to(maps.device)
    return F.interpolate(fine, maps.shape[-2:], mode="area")


def _mean(maps: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return (maps * weights).sum(dim=(2, 3)) / weights.sum(dim=(2, 3)).clamp(min=1e-6)
