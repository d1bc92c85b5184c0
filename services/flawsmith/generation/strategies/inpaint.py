"""Parts of given images painted anew (DSAII, DIAG).

A UNet of 9 channels reads the mask and the latents of what is kept; one of 4 channels is shown the kept latents at
each step, noised as far as its own (the single pass of RePaint that diffusers' StableDiffusionInpaintPipeline makes).
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from flawsmith.common.errors import InvalidArgumentError
from flawsmith.generation.diffusion import LatentDiffusionModel
from flawsmith.generation.drawing_request import DrawingRequest, MaskedImages
from flawsmith.generation.sampling import Repainting, sample_latents
from flawsmith.generation.signal_leak import SignalLeak


def inpaint(
    model: LatentDiffusionModel,
    request: DrawingRequest,
    signal_leak: SignalLeak | None,
    masked: MaskedImages | None,
) -> np.ndarray:
    """The images with the masked parts painted anew, uint8, N x height x width x 3.

    masked: one image a seed, scaled to the request's size. What is kept went through the autoencoder: paste the
    painted part into the original (`flawsmith.generation.masks.paste`). signal_leak: not used, the images themselves
    say what the product looks like.
    Raises InvalidArgumentError (NO_IMAGES: none or not one a seed) and what `sample_latents` raises.
    """
    if masked is None or len(masked.images) != len(request.seeds):
        raise InvalidArgumentError(
            "NO_IMAGES", f"inpainting needs one image and mask a seed; there are {len(request.seeds)} seeds"
        )
    height, width = request.height, request.width
    if request.round_size:
        height, width = model.nearest_side(height), model.nearest_side(width)
    model.check_size(height, width)
    latents = sample_latents(
        model,
        request.prompt,
        request.negative_prompt,
        height=height,
        width=width,
        steps=request.steps,
        guidance=request.guidance,
        seeds=request.seeds,
        clip_skip=request.clip_skip,
        repainting=repainting(model, masked, height, width, request.strength),
    )
    return model.decode_latents(latents)


@torch.no_grad()
def repainting(
    model: LatentDiffusionModel, masked: MaskedImages, height: int, width: int, strength: float = 1.0
) -> Repainting:
    """What a model reads of images, scaled to height x width pixels, to paint the masked parts anew."""
    images = np.stack([cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC) for image in masked.images])
    masks = np.stack([cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST) for mask in masked.masks])
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    mask = torch.from_numpy(masks > 0)[:, None].float()
    conditioning = model.text_conditioning(height, width)
    coarse = F.interpolate(mask, (height // model.size_multiple, width // model.size_multiple)).to(model.device)
    if conditioning is not None:
        conditioning = torch.cat([coarse, _encode(model, pixels * (mask < 0.5))], dim=1)
    return Repainting(_encode(model, pixels), coarse, conditioning, strength)


def _encode(model: LatentDiffusionModel, pixels: torch.Tensor) -> torch.Tensor:
    """Latents of pixels in [-1, 1]."""
    means = []
    for batch in pixels.split(4):
        distribution = model.vae.encode(batch.to(model.device, model.vae.dtype)).latent_dist
        means.append(model.to_latents(distribution.mean.float(), distribution.std.float())[0])
    return torch.cat(means)
