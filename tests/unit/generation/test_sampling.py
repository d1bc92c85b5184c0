"""Sampling against diffusers' own pipelines."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline, StableDiffusionPipeline
from PIL import Image

from flawsmith.common.errors import AbortedError, FailedPreconditionError, InvalidArgumentError
from flawsmith.generation.diffusion import LatentDiffusionModel, load_model
from flawsmith.generation.drawing_request import DrawingRequest
from flawsmith.generation.quality import check_images
from flawsmith.generation.sampling import sample_latents
from flawsmith.generation.strategies import STRATEGIES

SIZE = {"height": 48, "width": 32}


def draw(model: LatentDiffusionModel, **changes: object) -> np.ndarray:
    values = {"prompt": "skt background", "base_model_sha256": "", **SIZE, "steps": 4, "seeds": (1, 2), **changes}
    return STRATEGIES["text_to_image"](model, DrawingRequest.model_validate(values), None)


@pytest.mark.parametrize("model_folder", ["tiny_folder", "velocity_folder"])
def test_nine_channels_draw_what_the_inpainting_pipeline_draws_with_everything_masked(
    model_folder: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(model_folder)
    ours = draw(load_model(folder), negative_prompt="dark")
    pipeline = StableDiffusionInpaintPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    # The pipeline samples the blank image's latents; its mean is the same for everyone.
    encode = pipeline.vae.encode
    pipeline.vae.encode = lambda image: _Mode(encode(image).latent_dist.mean)
    theirs = pipeline(
        ["skt background"] * 2, negative_prompt=["dark"] * 2, image=Image.new("RGB", (32, 48)),
        mask_image=Image.new("L", (32, 48), 255), **SIZE, num_inference_steps=4, guidance_scale=7.5, strength=1.0,
        generator=[torch.Generator().manual_seed(seed) for seed in (1, 2)], output_type="np",
    ).images  # fmt: skip
    assert np.abs(ours.astype(int) - np.round(theirs * 255).astype(int)).max() <= 1


class _Mode:
    """A distribution that is its mean."""

    def __init__(self, mean: torch.Tensor) -> None:
        self.latent_dist = self
        self.mean = mean

    def sample(self, generator: torch.Generator | None = None) -> torch.Tensor:
        return self.mean


def test_four_channels_draw_what_the_text_to_image_pipeline_draws(tiny_folder_4: Path) -> None:
    parts = StableDiffusionInpaintPipeline.from_pretrained(tiny_folder_4).components
    parts.pop("image_encoder", None)
    pipeline = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        ["skt background"] * 2, **SIZE, num_inference_steps=4, guidance_scale=7.5,
        generator=[torch.Generator().manual_seed(seed) for seed in (1, 2)], output_type="np",
    ).images  # fmt: skip
    ours = draw(load_model(tiny_folder_4))
    assert np.abs(ours.astype(int) - np.round(theirs * 255).astype(int)).max() <= 1


def test_clip_skip_takes_the_layer_before_and_normalises_it(tiny: LatentDiffusionModel) -> None:
    tokens = tiny.tokenizer(["abc"], padding="max_length", max_length=40, return_tensors="pt").input_ids
    output = tiny.text_encoder(tokens, output_hidden_states=True)
    assert torch.equal(tiny.encode_prompts(["abc"]), output.last_hidden_state)
    expected = tiny.text_encoder.text_model.final_layer_norm(output.hidden_states[-2])
    assert torch.equal(tiny.encode_prompts(["abc"], clip_skip=2), expected)
    with pytest.raises(InvalidArgumentError) as caught:
        tiny.encode_prompts(["abc"], clip_skip=12)
    assert caught.value.reason == "CLIP_SKIP_TOO_LARGE"


def test_an_image_depends_on_its_own_seed_only(tiny: LatentDiffusionModel) -> None:
    together = draw(tiny, seeds=(1, 2))
    assert np.abs(draw(tiny, seeds=(2,))[0].astype(int) - together[1]).max() <= 1
    assert np.array_equal(draw(tiny, seeds=(1, 2)), together)
    assert not np.array_equal(together[0], together[1])


def test_sizes_that_the_model_cannot_make_are_refused_with_the_nearest(tiny: LatentDiffusionModel) -> None:
    with pytest.raises(InvalidArgumentError, match=r"nearest is 48 x 32") as caught:
        draw(tiny, height=49, width=33)
    assert caught.value.reason == "BAD_SIZE"
    assert [field.field for field in caught.value.fields] == ["height", "width"]
    assert (tiny.nearest_side(5), tiny.nearest_side(9999), tiny.nearest_side(50)) == (32, 2048, 48)


def test_too_long_prompts_are_refused(tiny: LatentDiffusionModel) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        draw(tiny, prompt="scratched " * 10)
    assert caught.value.reason == "PROMPT_TOO_LONG"


def test_constant_pictures_are_refused(tiny: LatentDiffusionModel) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (2, 32, 32, 3), dtype=np.uint8)
    check_images(noise, [5, 6])
    noise[1] = 0
    with pytest.raises(AbortedError, match="seeds 6") as caught:
        check_images(noise, [5, 6])
    assert caught.value.reason == "BLACK_IMAGE"
    # A diverged adapter draws NaN, which becomes black.
    tiny.unet.conv_out.weight.data.fill_(float("nan"))
    with pytest.raises(AbortedError):
        check_images(draw(tiny), [1, 2])


def test_guidance_of_one_is_the_prompt_alone(tiny: LatentDiffusionModel) -> None:
    options = {**SIZE, "steps": 3, "seeds": [4]}
    first = sample_latents(tiny, "a", "b", guidance=1.0, **options)
    assert torch.equal(first, sample_latents(tiny, "a", "another", guidance=1.0, **options))
    assert not torch.equal(first, sample_latents(tiny, "a", "b", guidance=3.0, **options))


def test_a_folder_that_lacks_parts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(FailedPreconditionError, match="vae/, text_encoder/, tokenizer/, unet/") as caught:
        load_model(tmp_path)
    assert caught.value.reason == "BASE_MODEL_INCOMPLETE"


def test_a_prediction_type_that_nobody_samples_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "model")
    path = tmp_path / "model/scheduler/scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prediction_type": "sample"}))
    with pytest.raises(FailedPreconditionError, match="epsilon and v_prediction") as caught:
        load_model(tmp_path / "model")
    assert caught.value.reason == "BASE_MODEL_UNSUPPORTED"
