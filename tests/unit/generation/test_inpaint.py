"""Inpainting against diffusers' own pipeline, and what the encoder sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline
from PIL import Image

from flawsmith.common.errors import InvalidArgumentError
from flawsmith.generation.diffusion import LatentDiffusionModel, load_model
from flawsmith.generation.drawer import Drawer
from flawsmith.generation.drawing_request import (
    DrawingRequest,
    MaskedImages,
    from_tensors,
    masked_from_tensors,
    to_tensors,
)
from flawsmith.generation.features import encoder_features
from flawsmith.generation.strategies import STRATEGIES

HEIGHT, WIDTH = 48, 32
RNG = np.random.default_rng(5)
IMAGES = RNG.integers(0, 256, (2, HEIGHT, WIDTH, 3), dtype=np.uint8)
MASKS = np.zeros((2, HEIGHT, WIDTH), np.uint8)
MASKS[0, 8:24, 4:20] = 255
MASKS[1, 20:44, 12:28] = 255


def asked(**changes: object) -> DrawingRequest:
    values = {
        "strategy": "inpaint", "prompt": "skt background", "negative_prompt": "dark", "base_model_sha256": "",
        "height": HEIGHT, "width": WIDTH, "steps": 5, "seeds": (1, 2), **changes,
    }  # fmt: skip
    return DrawingRequest.model_validate(values)


def draw(model: LatentDiffusionModel, masked: MaskedImages | None, **changes: object) -> np.ndarray:
    return STRATEGIES["inpaint"](model, asked(**changes), None, masked)


class _Mean:
    """A distribution that is its mean: what the pipeline samples depends on the order of its draws."""

    def __init__(self, mean: torch.Tensor) -> None:
        self.latent_dist = self
        self.mean = mean

    def sample(self, generator: torch.Generator | None = None) -> torch.Tensor:
        return self.mean


@pytest.mark.parametrize("strength", [1.0, 0.6])
@pytest.mark.parametrize("model_folder", ["tiny_folder", "tiny_folder_4", "velocity_folder"])
def test_images_are_those_of_the_inpainting_pipeline(
    model_folder: str, strength: float, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(model_folder)
    pipeline = StableDiffusionInpaintPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    encode = pipeline.vae.encode
    pipeline.vae.encode = lambda image: _Mean(encode(image).latent_dist.mean)
    ours = draw(load_model(folder), MaskedImages(IMAGES, MASKS), strength=strength)
    for index, seed in enumerate((1, 2)):
        theirs = pipeline(
            "skt background", negative_prompt="dark", image=Image.fromarray(IMAGES[index]),
            mask_image=Image.fromarray(MASKS[index]), height=HEIGHT, width=WIDTH, num_inference_steps=5,
            guidance_scale=7.5, strength=strength, generator=torch.Generator().manual_seed(seed), output_type="np",
        ).images[0]  # fmt: skip
        assert np.abs(ours[index].astype(int) - np.round(theirs * 255).astype(int)).max() <= 1


def test_lower_strength_stays_nearer_to_the_image(tiny_4: LatentDiffusionModel) -> None:
    masked = MaskedImages(IMAGES, MASKS)
    roundtrip = tiny_4.decode_latents(tiny_4.encode_images(IMAGES)[0]).astype(int)
    inside = MASKS > 0
    far, near = (
        np.abs(draw(tiny_4, masked, strength=strength, steps=20).astype(int) - roundtrip)[inside].mean()
        for strength in (1.0, 0.05)
    )
    assert near < far


@pytest.fixture
def tiny_4(tiny_folder_4: Path) -> LatentDiffusionModel:
    return load_model(tiny_folder_4)


def test_images_are_scaled_to_the_size_that_is_drawn(tiny: LatentDiffusionModel) -> None:
    masked = MaskedImages(IMAGES, MASKS)
    assert draw(tiny, masked, height=64, width=40).shape == (2, 64, 40, 3)
    with pytest.raises(InvalidArgumentError, match="nearest is 48 x 32") as caught:
        draw(tiny, masked, height=49, width=33)
    assert caught.value.reason == "BAD_SIZE"
    assert draw(tiny, masked, height=49, width=33, round_size=True).shape == (2, 48, 32, 3)


def test_whole_images_are_rounded_only_when_asked_for(tiny: LatentDiffusionModel) -> None:
    odd = asked(strategy="text_to_image", height=49, width=33, steps=1, seeds=(1,))
    with pytest.raises(InvalidArgumentError):
        STRATEGIES["text_to_image"](tiny, odd, None, None)
    rounded = odd.model_copy(update={"round_size": True})
    assert STRATEGIES["text_to_image"](tiny, rounded, None, None).shape == (1, 48, 32, 3)


def test_an_image_a_seed_is_needed(tiny: LatentDiffusionModel) -> None:
    for masked in (None, MaskedImages(IMAGES[:1], MASKS[:1])):
        with pytest.raises(InvalidArgumentError) as caught:
            draw(tiny, masked)
        assert caught.value.reason == "NO_IMAGES"


def test_images_and_masks_must_go_together() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        MaskedImages(IMAGES, MASKS[:, :40])
    assert caught.value.reason == "BAD_IMAGES"
    with pytest.raises(InvalidArgumentError) as caught:
        MaskedImages(IMAGES, np.stack([MASKS[0], np.zeros_like(MASKS[0])]))
    assert caught.value.reason == "EMPTY_MASK"


def test_masked_images_survive_the_way_to_triton_and_back() -> None:
    request, masked = asked(strength=0.7, round_size=True), MaskedImages(IMAGES, MASKS)
    tensors = to_tensors(request, masked)
    assert (tensors["image"].dtype, tensors["mask"].dtype) == (np.uint8, np.uint8)
    assert from_tensors(tensors) == request
    back = masked_from_tensors(tensors)
    assert back is not None
    assert np.array_equal(back.images, IMAGES)
    assert np.array_equal(back.masks, MASKS)
    assert masked_from_tensors(to_tensors(request)) is None


def test_features_are_of_the_mask_against_its_neighbourhood(tiny: LatentDiffusionModel) -> None:
    images = np.full((4, 64, 64, 3), 130, np.uint8)
    mask = np.zeros((64, 64), np.uint8)
    mask[24:40, 24:40] = 255
    images[1][mask > 0] = 40  # dark
    images[2] -= 20
    images[2][mask > 0] = 25  # dark, on a darker surface
    images[3][mask > 0] = 220  # bright
    features = encoder_features(tiny, MaskedImages(images, np.repeat(mask[None], 4, axis=0)))
    assert features.dtype == np.float32
    assert np.allclose(np.linalg.norm(features[1:], axis=1), 1, atol=1e-5)
    dark, darker, bright = features[1:]
    assert dark @ darker > max(0.95, dark @ bright)
    # An adapter's weights are no part of it: only the autoencoder is asked.
    again = encoder_features(tiny, MaskedImages(images[1:2], mask[None]))
    assert np.allclose(again[0], dark, atol=1e-4)


def test_features_and_paintings_are_the_same_when_rows_are_shared_out_among_threads(tiny_folder: Path) -> None:
    images = RNG.integers(0, 256, (3, HEIGHT, WIDTH, 3), dtype=np.uint8)
    masked = MaskedImages(images, np.stack([MASKS[0], MASKS[1], MASKS[0]]))
    threads = torch.get_num_threads()
    drawers = [
        Drawer(load_model(tiny_folder), "", lambda uri, sha256: tiny_folder, precision=precision, threads=2)
        for precision in ("float32", "bfloat16")
    ]
    plain, shared = (drawer.features(masked) for drawer in drawers)
    alike = plain @ shared.T
    assert (alike.argmax(axis=1) == np.arange(3)).all()
    assert (alike.diagonal() > 0.98).all()
    one, other = (drawer.draw(asked(seeds=(1, 2, 3), steps=2, guidance=2), masked).astype(int) for drawer in drawers)
    torch.set_num_threads(threads)
    for row in range(3):
        assert np.abs(one[row] - other[row]).mean() < 3
