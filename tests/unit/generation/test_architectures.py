"""Every base model of the catalog, as its real pipeline class with a tiny random configuration: loaded, fine-tuned one
step, drawn with the adapter, and compared with what diffusers' own pipeline draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from diffusers.training_utils import compute_snr
from PIL import Image

from flawsmith.common.errors import FailedPreconditionError, InvalidArgumentError
from flawsmith.common.images import encode_png
from flawsmith.generation import cpu_inference
from flawsmith.generation.architectures import ARCHITECTURES
from flawsmith.generation.buckets import Placement
from flawsmith.generation.catalog import load_catalog
from flawsmith.generation.diffusion import LatentDiffusionModel, load_model
from flawsmith.generation.drawer import Drawer
from flawsmith.generation.drawing_request import DrawingRequest, MaskedImages
from flawsmith.generation.dreambooth import draw_prior
from flawsmith.generation.finetune import run
from flawsmith.generation.layouts import INDEX, PARTS, architecture_of
from flawsmith.generation.lora import read_kohya
from flawsmith.generation.sampling import sample_latents
from flawsmith.generation.spec import Algorithm, FineTuneRun, FineTuneSpec, Precision
from tests.unit.generation.tiny_pipelines import PIPELINES, write_tiny_pipeline

IDS = sorted(PIPELINES)
HEIGHT, WIDTH = 48, 32
SPEC = FineTuneSpec(
    rank=2, rank_alpha=2.0, conv_rank=2, conv_alpha=2.0, max_steps=1, epochs=1, batch_size=1, repeats=1,
    regularization_images=1, regularization_steps=1, unet_learning_rate=1e-1, text_encoder_learning_rate=1e-1,
    clip_skip=1, precision="float32", instance_prompt="skt background",
)  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.set_num_threads(1)
    return {name: write_tiny_pipeline(name, tmp_path_factory.mktemp(name)) for name in IDS}


def request(**changes: object) -> DrawingRequest:
    values = {
        "prompt": "skt background", "base_model_sha256": "base", "height": HEIGHT, "width": WIDTH, "steps": 3,
        "seeds": (5, 6), "guidance": 1.0,
    }  # fmt: skip
    return DrawingRequest.model_validate({**values, **changes})


def drawer(
    model: LatentDiffusionModel, adapter: Path | None = None, precision: Precision = "float32", threads: int = 1
) -> Drawer:
    return Drawer(model, "base", lambda uri, sha256: adapter or Path(), precision=precision, threads=threads)


def test_every_entry_of_the_catalog_is_tested_here(folders: dict[str, Path]) -> None:
    catalog = load_catalog()
    assert sorted(catalog) == IDS
    for name, entry in catalog.items():
        assert architecture_of((folders[name] / INDEX).read_bytes()) == entry.architecture
    assert set(ARCHITECTURES) == set(PARTS)


@pytest.mark.parametrize("algorithm", list(Algorithm))
@pytest.mark.parametrize("name", IDS)
def test_one_step_of_fine_tuning_changes_what_is_drawn(
    folders: dict[str, Path], tmp_path: Path, name: str, algorithm: Algorithm
) -> None:
    image = tmp_path / "image.png"
    image.write_bytes(encode_png(np.random.default_rng(3).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)))
    result = run(
        FineTuneRun(
            spec=SPEC.model_copy(update={"algorithm": algorithm}), base_model=folders[name],
            base_model_sha256="0" * 64, images=(image,), work_folder=tmp_path / "work", threads=1,
        ),
        _Silent(),
    )  # fmt: skip
    assert result["steps"] == 1
    assert np.isfinite(result["final_loss"])
    model, adapter = load_model(folders[name]), Path(result["weights"])
    assert isinstance(model, ARCHITECTURES[load_catalog()[name].architecture])
    layers = read_kohya(adapter).layers
    prefixes = {prefix for prefix in model.networks if any(layer.startswith(prefix) for layer in layers)}
    assert prefixes == set(model.networks)
    # Up weights start at zero: those that the loss reaches moved. (The last layers of XL's text encoders are not read.)
    moved = [layer for layer in layers.values() if layer.up.any()]
    assert len(moved) > 0.5 * len(layers)

    drawing = drawer(model, adapter)
    plain = drawing.draw(request())
    adapted = drawing.draw(request(adapter_uri="s3://b/a", adapter_sha256="a"))
    assert plain.shape == adapted.shape == (2, HEIGHT, WIDTH, 3)
    assert not np.array_equal(plain, adapted)
    assert np.array_equal(drawing.draw(request()), plain)  # taken out again


@pytest.mark.parametrize(("name", "guidance"), [("flux2-klein-4b", 1.0), ("sdxl-inpaint", 8.0), ("sd15", 7.5)])
def test_regularisation_images_are_drawn_as_an_imported_model_draws(
    folders: dict[str, Path], name: str, guidance: float
) -> None:
    model, spec = load_model(folders[name]), SPEC.model_copy(update={"base_model": "ours", "regularization_steps": 2})
    prior = draw_prior(model, spec, [Placement((HEIGHT, WIDTH), (HEIGHT, WIDTH))])
    drawn = sample_latents(
        model, spec.class_prompt, "", height=HEIGHT, width=WIDTH, steps=2, guidance=guidance, seeds=[spec.seed]
    )
    assert torch.equal(next(iter(prior.values())), drawn)


class _Silent:
    """A reporter that nobody listens to."""

    def progress(self, stage: str, step: int, total: int, loss: float | None = None) -> None: ...

    def checkpoint(self, path: Path, step: int) -> None: ...


def test_text_alone_draws_what_the_pipelines_draw(folders: dict[str, Path]) -> None:
    """Text-to-image of each, with guidance where the pipeline has it; inpainting models with everything masked."""
    for name in IDS:
        pipeline = DiffusionPipeline.from_pretrained(folders[name])
        pipeline.set_progress_bar_config(disable=True)
        options: dict[str, object] = {"height": HEIGHT, "width": WIDTH, "num_inference_steps": 3}
        guidance = 1.0
        if name != "flux2-klein-4b":
            guidance = 4.0
            pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
            options["negative_prompt"] = ["dark"] * 2
        if "inpaint" in name or name == "mini":
            encode = pipeline.vae.encode
            # The pipeline samples the blank image's latents; its mean is the same for everyone.
            pipeline.vae.encode = lambda image, encode=encode: _Mean(encode(image).latent_dist.mean)
            options |= {
                "image": Image.new("RGB", (WIDTH, HEIGHT)), "strength": 1.0,
                "mask_image": Image.new("L", (WIDTH, HEIGHT), 255),
            }  # fmt: skip
        theirs = pipeline(
            prompt=["skt background"] * 2, guidance_scale=guidance, output_type="np",
            generator=[torch.Generator().manual_seed(seed) for seed in (5, 6)], **options,
        ).images  # fmt: skip
        ours = drawer(load_model(folders[name])).draw(request(guidance=guidance, negative_prompt="dark"))
        assert np.abs(ours - np.round(theirs * 255)).max() <= 1, name


@pytest.mark.skipif(not cpu_inference.is_quick(), reason="this CPU is not quick at bfloat16")
@pytest.mark.parametrize("name", IDS)
def test_processors_quick_at_bfloat16_draw_nearly_the_same(folders: dict[str, Path], name: str) -> None:
    guided = request(guidance=1.0 if name == "flux2-klein-4b" else 4.0, negative_prompt="dark")
    exact = drawer(load_model(folders[name])).draw(guided)
    found = drawer(load_model(folders[name]), precision="auto", threads=2).draw(guided)
    difference = np.abs(found.astype(int) - exact)
    assert 0 < difference.mean() < 2, name


class _Mean:
    """A distribution that is its mean."""

    def __init__(self, mean: torch.Tensor) -> None:
        self.latent_dist = self
        self.mean = mean

    def sample(self, generator: torch.Generator | None = None) -> torch.Tensor:
        return self.mean


@pytest.mark.parametrize("name", IDS)
def test_masked_parts_are_painted_anew(folders: dict[str, Path], name: str) -> None:
    """Models that were trained for it read what to keep; the others are shown it at each step."""
    model = load_model(folders[name])
    trained = "inpaint" in load_catalog()[name].capabilities
    assert trained == (model.text_conditioning(HEIGHT, WIDTH) is not None)
    assert trained or "inpaint-blended" in load_catalog()[name].capabilities
    images = np.random.default_rng(3).integers(0, 255, (2, HEIGHT, WIDTH, 3), dtype=np.uint8)
    images[1] = images[0]
    masks = np.zeros((2, HEIGHT, WIDTH), np.uint8)
    masks[:, :16, :16] = 255
    one, other = drawer(model).draw(request(strategy="inpaint"), MaskedImages(images, masks)).astype(int)
    assert one.shape == (HEIGHT, WIDTH, 3)
    inside = masks[0] > 0
    assert np.abs(one - other)[inside].mean() > (0 if trained else 2 * np.abs(one - other)[~inside].mean())


@pytest.mark.parametrize("name", IDS)
def test_latents_go_through_the_autoencoder_and_back(folders: dict[str, Path], name: str) -> None:
    model = load_model(folders[name])
    image = np.random.default_rng(3).integers(0, 255, (1, HEIGHT, WIDTH, 3), dtype=np.uint8)
    mean, deviation = model.encode_images(image)
    multiple = model.size_multiple
    assert mean.shape == deviation.shape == (1, model.latent_channels, HEIGHT // multiple, WIDTH // multiple)
    pixels = torch.from_numpy(image).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        distribution = model.vae.encode(pixels).latent_dist
        decoded = model.vae.decode(distribution.mean).sample.permute(0, 2, 3, 1)
    expected = (decoded[0] / 2 + 0.5).clamp(0, 1).mul(255).round().numpy()
    assert np.abs(model.decode_latents(mean)[0] - expected).max() <= 1
    # Deviations are on the scale of the means.
    shifted, _ = model.to_latents(distribution.mean + distribution.std, distribution.std)
    assert torch.allclose(shifted - mean, deviation, atol=1e-4)


@pytest.mark.parametrize("name", ["sd15", "sdxl-inpaint"])
def test_signal_to_noise_is_the_schedules(folders: dict[str, Path], name: str) -> None:
    model = load_model(folders[name])
    timesteps = torch.tensor([0, 10, 400, 999])
    assert torch.allclose(model.signal_to_noise(timesteps), compute_snr(model.scheduler, timesteps))


def test_flow_matching_mixes_latents_and_noise_in_a_straight_line(folders: dict[str, Path]) -> None:
    """As diffusers' scheduler noises for training, and so that the target leads from the noisy latents to the clean."""
    model = load_model(folders["flux2-klein-4b"])
    latents, noise = torch.randn(2, 3, model.latent_channels, 3, 2).unbind()
    timesteps = torch.tensor([0, 250, 999])
    noisy = model.add_noise(latents, noise, timesteps)
    share = (timesteps / 1000).reshape(-1, 1, 1, 1)
    assert torch.allclose(noisy - share * model.training_target(latents, noise, timesteps), latents, atol=1e-6)
    sampler = model.sampler(4, HEIGHT, WIDTH)
    first = sampler.timesteps[:1]
    assert torch.allclose(
        model.add_noise(latents, noise, first), sampler.scale_noise(latents, first.expand(3), noise), atol=1e-5
    )
    assert torch.allclose(model.signal_to_noise(torch.tensor([500])), torch.tensor([1.0]))


def test_xl_reads_the_size_and_both_text_encoders(folders: dict[str, Path]) -> None:
    model = load_model(folders["sdxl-inpaint"])
    with torch.no_grad():
        one, other = model.encode_prompts(["scratch", "hole"])
        assert not torch.equal(one[-1], other[-1])  # pooled
        assert not one[-1, 8:].any()  # filled up
        assert torch.allclose(one, model.encode_prompts(["scratch"], clip_skip=2)[0], atol=1e-5)
        latents, conditioning = torch.randn(1, 4, 12, 8), model.text_conditioning(HEIGHT, WIDTH)
        wide = model.predict(latents, torch.tensor([500]), one[None], conditioning)
        pooled = one[None].clone()
        pooled[:, -1] = other[-1]
        assert not torch.allclose(wide, model.predict(latents, torch.tensor([500]), pooled, conditioning))


@pytest.mark.parametrize("name", IDS)
def test_too_long_prompts_are_refused(folders: dict[str, Path], name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="tokens; shorten: scratched") as caught:
        load_model(folders[name]).encode_prompts(["scratched " * 90])
    assert caught.value.reason == "PROMPT_TOO_LONG"


def test_half_precision_files_serve_where_there_are_no_others(tmp_path: Path, folders: dict[str, Path]) -> None:
    half = load_model(write_tiny_pipeline("sd15-inpaint", tmp_path, variant="fp16"))
    full = load_model(folders["sd15-inpaint"])
    for name, weight in half.unet.state_dict().items():
        assert torch.equal(weight, full.unet.state_dict()[name].half().float())


def test_other_pipelines_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "PixArtAlphaPipeline"}')
    with pytest.raises(FailedPreconditionError, match="PixArtAlphaPipeline are not supported") as caught:
        load_model(tmp_path)
    assert caught.value.reason == "BASE_MODEL_UNSUPPORTED"
    (tmp_path / "model_index.json").write_text("[]")
    with pytest.raises(FailedPreconditionError) as caught:
        load_model(tmp_path)
    assert caught.value.reason == "BASE_MODEL_INCOMPLETE"
