"""One base model, many adapters; and how requests travel to Triton."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from flawsmith.common.errors import (
    FailedPreconditionError,
    FlawsmithError,
    InvalidArgumentError,
    ResourceExhaustedError,
)
from flawsmith.generation.diffusion import LatentDiffusionModel, load_model
from flawsmith.generation.drawer import Drawer
from flawsmith.generation.drawing_request import DrawingRequest, MaskedImages, from_tensors, to_tensors
from flawsmith.generation.lora import LoraLayerWeights, LoraWeights, extract, inject, write_kohya
from flawsmith.generation.spec import Algorithm, Precision

MINI = Path(__file__).parents[3] / "models/mini"
REQUEST = DrawingRequest(
    prompt="skt background", base_model_sha256="base", height=32, width=40, steps=2, seeds=(3,), alpha=0.9
)


def write_adapter(folder: Path, path: Path, seed: int) -> None:
    model = load_model(folder)
    torch.manual_seed(seed)
    inject(model.unet, Algorithm.LIERLA, rank=2, alpha=2.0, conv_rank=1, conv_alpha=1.0)
    layers = extract(model.networks).layers
    write_kohya(
        LoraWeights({n: LoraLayerWeights(w.down, 0.3 * torch.randn_like(w.up), w.alpha) for n, w in layers.items()}),
        path,
    )


def with_adapter(name: str, alpha: float = 0.9) -> DrawingRequest:
    return REQUEST.model_copy(update={"adapter_uri": f"s3://b/{name}", "adapter_sha256": name, "alpha": alpha})


@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_adapters_take_turns_and_leave_no_trace(
    tiny: LatentDiffusionModel, tiny_folder: Path, tmp_path: Path, precision: Precision
) -> None:
    fetched: list[str] = []

    def fetch(uri: str, sha256: str) -> Path:
        fetched.append(uri)
        return tmp_path / sha256

    for seed, name in enumerate(("one", "two")):
        write_adapter(tiny_folder, tmp_path / name, seed)
    drawer = Drawer(tiny, "base", fetch, precision=precision)
    plain = drawer.draw(REQUEST)
    one, two = drawer.draw(with_adapter("one")), drawer.draw(with_adapter("two"))
    weaker = drawer.draw(with_adapter("one", alpha=0.2))
    assert plain.shape == (1, 32, 40, 3)
    assert plain.dtype == np.uint8
    for other in (plain, two, weaker):
        assert not np.array_equal(one, other)
    assert np.array_equal(drawer.draw(with_adapter("one")), one)
    assert np.array_equal(drawer.draw(with_adapter("two", alpha=0.0)), plain)
    assert np.array_equal(drawer.draw(REQUEST), plain)
    assert fetched == ["s3://b/one", "s3://b/two"]  # read once each


@pytest.mark.parametrize("strategy", ["text_to_image", "inpaint"])
def test_where_memory_runs_out_seeds_are_drawn_in_halves(
    tiny: LatentDiffusionModel, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    rng = np.random.default_rng(5)
    images = rng.integers(0, 256, (5, 32, 40, 3), dtype=np.uint8)
    masks = np.zeros((5, 32, 40), np.uint8)
    masks[:, 8:24, 8:24] = 255
    masked = MaskedImages(images, masks) if strategy == "inpaint" else None
    request = REQUEST.model_copy(update={"seeds": (1, 2, 3, 4, 5), "strategy": strategy})
    drawer = Drawer(tiny, "base", lambda uri, sha256: Path(uri), precision="float32")
    whole = drawer.draw(request, masked)
    predict, room, tried = type(tiny).predict, 4, list[int]()

    def limited(model: LatentDiffusionModel, latents: torch.Tensor, *args: Any) -> torch.Tensor:
        tried.append(len(latents))
        if len(latents) > room:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return predict(model, latents, *args)

    monkeypatch.setattr(type(tiny), "predict", limited)
    assert np.abs(drawer.draw(request, masked).astype(int) - whole).max() <= 2
    assert tried == [10, 6, 4, 4, 4, 4, 2, 2]  # 5, 3 and 2 seeds, each with and without the prompt, in two steps
    room = 1
    with pytest.raises(ResourceExhaustedError, match="smaller") as caught:
        drawer.draw(request, masked)
    assert caught.value.reason == "OUT_OF_MEMORY"


def test_adapters_that_do_not_fit_into_the_memory_are_fetched_again(
    tiny: LatentDiffusionModel, tiny_folder: Path, tmp_path: Path
) -> None:
    fetched: list[str] = []

    def fetch(uri: str, sha256: str) -> Path:
        fetched.append(sha256)
        return tmp_path / sha256

    for seed, name in enumerate(("one", "two")):
        write_adapter(tiny_folder, tmp_path / name, seed)
    drawer = Drawer(tiny, "base", fetch, adapter_cache_bytes=0)
    images = [drawer.draw(with_adapter(name)) for name in ("one", "one", "two", "one")]
    assert fetched == ["one", "two", "one"]  # the last one used is kept
    assert np.array_equal(images[0], images[3])
    assert not np.array_equal(images[0], images[2])


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_fast_precision_draws_what_float32_draws(prediction: str, threads: int) -> None:
    """On mini, with either thing that a UNet can predict: the images of a request, in one call or one by one."""
    before = torch.get_num_threads()
    request = REQUEST.model_copy(
        update={"prompt": "a scratch on brushed steel", "height": 64, "width": 96, "steps": 4, "seeds": (1, 2, 3)}
    )
    drawers = []
    for precision in ("float32", "auto"):
        model = load_model(MINI)
        if prediction == "epsilon":  # as Stable Diffusion has it; mini's own are velocities
            schedule = {"prediction_type": "epsilon", "rescale_betas_zero_snr": False, "timestep_spacing": "leading"}
            model.scheduler = DDIMScheduler.from_config({**model.scheduler.config, **schedule})
        assert model.scheduler.config.prediction_type == prediction
        drawers.append(Drawer(model, "base", lambda uri, sha256: Path(), precision=precision, threads=threads))
        drawers[-1].warm_up()
    expected, found = (drawer.draw(request).astype(int) for drawer in drawers)
    assert expected.std() > 5
    assert np.abs(found - expected).mean() < 1.5
    for image, seed in zip(found, request.seeds, strict=True):
        alone = drawers[1].draw(request.model_copy(update={"seeds": (seed,)}))[0].astype(int)
        assert np.abs(alone - image).mean() < 2.0  # roundings depend on how many are drawn at once
    torch.set_num_threads(before)


def test_requests_for_another_base_model_or_strategy_are_refused(tiny: LatentDiffusionModel, tmp_path: Path) -> None:
    drawer = Drawer(tiny, "base", lambda uri, sha256: tmp_path / "none")
    for changes, error, reason in (
        ({"base_model_sha256": "another"}, FailedPreconditionError, "BASE_MODEL_REPLACED"),
        (
            {"base_model_sha256": "another", "adapter_uri": "s3://b/a", "adapter_sha256": "a"},
            FailedPreconditionError,
            "ADAPTER_BASE_MISMATCH",
        ),
        ({"strategy": "telepathy"}, InvalidArgumentError, "UNKNOWN_STRATEGY"),
        ({"adapter_uri": "s3://b/none", "adapter_sha256": "none"}, InvalidArgumentError, "ADAPTER_UNREADABLE"),
    ):
        with pytest.raises(FlawsmithError) as caught:
            drawer.draw(REQUEST.model_copy(update=changes))
        assert (type(caught.value), caught.value.reason) == (error, reason)
        assert reason != "BASE_MODEL_REPLACED" or "adapter" not in caught.value.message
    # A refused request changes nothing.
    assert np.array_equal(drawer.draw(REQUEST), Drawer(tiny, "base", lambda uri, sha256: tmp_path).draw(REQUEST))


def test_requests_survive_the_way_to_triton_and_back() -> None:
    request = REQUEST.model_copy(update={"seeds": (1, 2**62), "alpha": 0.95, "negative_prompt": "schön"})
    tensors = to_tensors(request)
    assert {name: (tensor.dtype.kind, tensor.shape) for name, tensor in tensors.items()} == {
        "strategy": ("O", (1,)), "prompt": ("O", (1,)), "negative_prompt": ("O", (1,)),
        "base_model_sha256": ("O", (1,)), "adapter_uri": ("O", (1,)), "adapter_sha256": ("O", (1,)),
        "alpha": ("f", (1,)), "height": ("i", (1,)), "width": ("i", (1,)), "steps": ("i", (1,)),
        "guidance": ("f", (1,)), "clip_skip": ("i", (1,)), "round_size": ("i", (1,)), "strength": ("f", (1,)),
        "seeds": ("i", (2,)),
    }  # fmt: skip
    assert from_tensors(tensors) == request


def test_all_bad_fields_of_a_triton_request_are_listed() -> None:
    tensors = to_tensors(REQUEST) | {"alpha": np.array([1.5]), "steps": np.array([0])}
    with pytest.raises(InvalidArgumentError) as caught:
        from_tensors(tensors)
    assert caught.value.reason == "INVALID_FIELDS"
    assert {field.field for field in caught.value.fields} == {"alpha", "steps"}
