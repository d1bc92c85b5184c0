"""The base model that ships with the repository: it loads, is small, and draws something."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
Image = pytest.importorskip("PIL.Image")

MODEL = Path(__file__).parents[2] / "models" / "mini"


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Any]:
    # On busy cores two threads wait for each other at every operator, which is many times slower than one.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    loaded = diffusers.StableDiffusionInpaintPipeline.from_pretrained(MODEL, torch_dtype=torch.float32)
    loaded.set_progress_bar_config(disable=True)
    yield loaded
    torch.set_num_threads(threads)


def generate(pipeline: Any, prompt: str, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """One picture, float32 in [0, 1], as large as `image` (uint8 RGB); `mask` is 255 where to draw."""
    result = pipeline(
        prompt,
        image=Image.fromarray(image),
        mask_image=Image.fromarray(mask),
        height=image.shape[0],
        width=image.shape[1],
        strength=1.0,
        num_inference_steps=12,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed(1),
        output_type="np",
    )
    return np.asarray(result.images[0])


def blank(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Text-to-image is inpainting everything: a grey picture under an all-ones mask."""
    return np.full((height, width, 3), 128, np.uint8), np.full((height, width), 255, np.uint8)


def test_weights_are_small_and_the_card_is_there() -> None:
    weights = list(MODEL.rglob("*.safetensors"))
    assert len(weights) == 3
    assert sum(path.stat().st_size for path in weights) <= 40_000_000
    assert "Apache-2.0" in (MODEL / "README.md").read_text(encoding="utf-8")


def test_layout_is_stable_diffusions(pipeline: Any) -> None:
    assert pipeline.unet.config.in_channels == 9
    assert pipeline.vae_scale_factor == 4
    assert "CrossAttnDownBlock2D" in pipeline.unet.config.down_block_types
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    # Ends in pure noise, so that colours come from the prompt.
    assert pipeline.scheduler.alphas_cumprod[-1] == pytest.approx(0, abs=1e-6)


def test_unseen_words_are_spelled(pipeline: Any) -> None:
    tokenizer = pipeline.tokenizer
    assert len(tokenizer.tokenize("scratched background")) == 2
    spelled = tokenizer.tokenize("skt")
    assert len(spelled) > 1
    assert tokenizer.unk_token_id not in tokenizer.convert_tokens_to_ids(spelled)


def test_text_to_image_draws_the_colour_of_the_prompt(pipeline: Any) -> None:
    image, mask = blank(128, 128)
    drawn = {
        color: generate(pipeline, f"clean {color} plastic surface", image, mask).mean(axis=(0, 1))
        for color in ("red", "green", "blue")
    }
    for channel, color in enumerate(drawn):
        assert drawn[color].argmax() == channel, drawn
        assert drawn[color][channel] > np.sort(drawn[color])[1] + 0.1


def test_text_to_image_draws_the_defect_of_the_prompt(pipeline: Any) -> None:
    image, mask = blank(128, 128)
    hole = generate(pipeline, "light grey concrete surface with a large dark hole", image, mask)
    clean = generate(pipeline, "clean light grey concrete surface", image, mask)
    for picture in (hole, clean):
        assert np.isfinite(picture).all()
        assert picture.shape == (128, 128, 3)
        assert np.median(picture) > 0.5  # light
        assert picture.std() > 0.01  # concrete
    dark_shares = [(picture.mean(axis=2) < 0.25).mean() for picture in (hole, clean)]
    assert dark_shares[0] > 0.01
    assert dark_shares[1] < 0.1 * dark_shares[0]


def test_inpainting_at_a_size_that_is_not_square(pipeline: Any) -> None:
    image, _ = blank(160, 128)
    mask = np.zeros((160, 128), np.uint8)
    mask[60:100, 40:90] = 255
    picture = generate(pipeline, "grey brushed metal surface with a scratch", image, mask)
    assert picture.shape == (160, 128, 3)
    assert np.isfinite(picture).all()
    assert picture[60:100, 40:90].std() > 0.01
