"""The fine-tuning process, run as the worker runs it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from flawsmith.common.child import run_child
from flawsmith.common.errors import FailedPreconditionError, InvalidArgumentError, ResourceExhaustedError
from flawsmith.common.images import decode_image, encode_png
from flawsmith.generation.architectures.stable_diffusion import StableDiffusion
from flawsmith.generation.finetune import run
from flawsmith.generation.lora import read_kohya
from flawsmith.generation.loss_curve import HEIGHT, WIDTH, draw_loss_curve, smooth
from flawsmith.generation.spec import FineTuneRun, FineTuneSpec
from flawsmith.generation.workflows import run_within_memory

SPEC = FineTuneSpec(
    rank=2, rank_alpha=2.0, conv_rank=1, epochs=2, max_steps=6, batch_size=1, repeats=3, regularization_images=2,
    regularization_steps=1, unet_learning_rate=1e-2, text_encoder_learning_rate=1e-2, clip_skip=1, precision="float32",
    preview_every=2,
)  # fmt: skip


class Events:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int, int]] = []
        self.checkpoints: list[Path] = []

    def progress(self, stage: str, step: int, total: int, loss: float | None = None) -> None:
        self.stages.append((stage, step, total))

    def checkpoint(self, path: Path, step: int) -> None:
        self.checkpoints.append(path)


@pytest.fixture
def job(tiny_folder: Path, tmp_path: Path) -> FineTuneRun:
    rng = np.random.default_rng(1)
    images = []
    for index in range(2):
        images.append(tmp_path / f"{index}.png")
        images[-1].write_bytes(encode_png(rng.integers(0, 255, (33, 42, 3), dtype=np.uint8)))
    return FineTuneRun(
        spec=SPEC, base_model=tiny_folder, base_model_sha256="0" * 64, images=tuple(images),
        work_folder=tmp_path / "work", checkpoint_every=3, threads=1,
    )  # fmt: skip


def test_three_steps_and_three_more_are_six(job: FineTuneRun, tmp_path: Path) -> None:
    """The child process does the whole run; this process resumes from its checkpoint: the same bytes."""
    events: list[dict[str, Any]] = []

    async def keep(event: dict[str, Any]) -> None:
        events.append(event)

    result = asyncio.run(run_child("flawsmith.generation.finetune", job, on_event=keep))
    checkpoints = [event for event in events if event["event"] == "checkpoint"]
    assert [event["step"] for event in checkpoints] == [3]
    stages = list(dict.fromkeys(event["stage"] for event in events if event["event"] == "progress"))
    assert stages == ["load", "prior", "train", "preview"]
    assert ("preview", 80, 80) in [(event.get("stage"), event.get("step"), event.get("total")) for event in events]
    assert (result["steps"], result["epochs"], result["height"], result["width"]) == (6, 1, 32, 40)
    assert (result["buckets"], result["micro_batch"]) == ([[32, 40]], 1)
    reporter = Events()
    resumed = job.model_copy(update={"resume_from": Path(checkpoints[0]["path"]), "work_folder": tmp_path / "resumed"})
    again = run(resumed, reporter)
    assert Path(again["weights"]).read_bytes() == Path(result["weights"]).read_bytes()
    assert json.loads(Path(again["losses"]).read_text()) == json.loads(Path(result["losses"]).read_text())
    assert again["final_loss"] == result["final_loss"]
    assert ("prior", 2, 2) not in reporter.stages  # kept in the checkpoint
    # 32 x 40, four of them side by side
    assert decode_image(Path(result["preview"]).read_bytes()).shape == (32, 160, 3)
    # Of steps 2 and 4, that of step 2 from the checkpoint; the last is the preview itself.
    pictures = [Path(preview["path"]).read_bytes() for preview in result["previews"]]
    assert [preview["step"] for preview in result["previews"]] == [preview["step"] for preview in again["previews"]]
    assert pictures == [Path(preview["path"]).read_bytes() for preview in again["previews"]]
    assert [preview["step"] for preview in result["previews"]] == [2, 4]
    assert len({*pictures, Path(result["preview"]).read_bytes()}) == 3
    assert decode_image(Path(result["loss_curve"]).read_bytes()).shape == (HEIGHT, WIDTH, 3)
    assert len(read_kohya(Path(result["weights"])).layers) > 10
    with safe_open(result["weights"], framework="pt") as file:
        assert json.loads(file.metadata()["flawsmith"]) == {
            "algorithm": "c3lier", "base_model": "mini", "base_model_sha256": "0" * 64, "signal_leak": None,
        }  # fmt: skip


class OnCuda(torch.Tensor):
    """What a tensor on a GPU does that one here does not: NumPy cannot read it before it is copied to the CPU."""

    def numpy(self, **options: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy it")

    def cpu(self, **options: Any) -> torch.Tensor:
        return self.as_subclass(torch.Tensor)


def test_pictures_of_a_checkpoint_that_was_read_onto_a_gpu_are_kept(
    job: FineTuneRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reporter = Events()
    whole = run(job, reporter)
    load = torch.load

    def load_onto_gpu(*arguments: Any, **options: Any) -> Any:
        state = load(*arguments, **options)
        pictures = {step: picture.as_subclass(OnCuda) for step, picture in state["previews"].items()}
        assert pictures
        return {**state, "previews": pictures}

    monkeypatch.setattr(torch, "load", load_onto_gpu)
    resumed = job.model_copy(update={"resume_from": reporter.checkpoints[0], "work_folder": tmp_path / "resumed"})
    again = run(resumed, Events())
    assert [Path(preview["path"]).read_bytes() for preview in again["previews"]] == [
        Path(preview["path"]).read_bytes() for preview in whole["previews"]
    ]


def test_views_are_of_the_outlined_defects_and_of_good_images(job: FineTuneRun, tmp_path: Path) -> None:
    mask = np.zeros((33, 42), np.uint8)
    mask[5:12, 8:30] = 255
    (tmp_path / "mask.png").write_bytes(encode_png(np.repeat(mask[..., None], 3, axis=2)))
    job = job.model_copy(update={"spec": SPEC.model_copy(update={"defect_views": 4, "preview_every": 0})})
    assert run(job, Events())["views"] == 0  # nobody said that they are good
    outlined = run(job.model_copy(update={"masks": (tmp_path / "mask.png", None)}), Events())
    good = run(job.model_copy(update={"good": True}), Events())
    assert (outlined["views"], good["views"]) == (4, 8)


def test_a_checkpoint_of_another_run_is_refused(job: FineTuneRun) -> None:
    reporter = Events()
    run(job, reporter)
    other = job.model_copy(update={"spec": SPEC.model_copy(update={"seed": 9}), "resume_from": reporter.checkpoints[0]})
    with pytest.raises(FailedPreconditionError) as caught:
        run(other, Events())
    assert caught.value.reason == "CHECKPOINT_MISMATCH"


def test_bad_sizes_and_images_are_refused_before_any_training(job: FineTuneRun) -> None:
    sized = job.model_copy(update={"spec": SPEC.model_copy(update={"height": 50, "width": 40})})
    with pytest.raises(InvalidArgumentError, match="nearest is 48 x 40"):
        run(sized, Events())
    job.images[1].write_bytes(b"no image")
    with pytest.raises(InvalidArgumentError) as caught:
        run(job, Events())
    assert caught.value.reason == "IMAGE_UNREADABLE"


def test_loss_curve_falls_where_the_loss_falls() -> None:
    falling = draw_loss_curve([1.0 - step / 100 for step in range(100)])
    dark = (falling == (30, 70, 160)).all(axis=2)
    rows = [float(np.flatnonzero(dark[:, column]).mean()) for column in range(100, 600, 100)]
    assert rows == sorted(rows)
    assert rows[-1] - rows[0] > 150
    assert draw_loss_curve([0.5]).shape == (HEIGHT, WIDTH, 3)


def test_smooth_is_the_mean_of_a_tenth_around() -> None:
    values = np.random.default_rng(0).random(100)
    smoothed = smooth(values)
    assert smoothed[50] == pytest.approx(values[45:56].mean())
    assert smoothed[0] == pytest.approx(values[:6].mean())
    assert smoothed[99] == pytest.approx(values[94:].mean())


def _limit_rows(monkeypatch: pytest.MonkeyPatch, rows: int, error: type[Exception]) -> None:
    """Let no model have room for more rows in its UNet, or in its autoencoder where rows is 0."""
    predict, encode = StableDiffusion.predict, StableDiffusion.encode_images

    def limited(model: StableDiffusion, latents: torch.Tensor, *args: Any) -> torch.Tensor:
        if len(latents) > rows and not torch.is_grad_enabled():
            raise error("out of memory")
        return predict(model, latents, *args)

    def none(model: StableDiffusion, images: np.ndarray) -> Any:
        raise error("out of memory")

    monkeypatch.setattr(StableDiffusion, "predict", limited)
    monkeypatch.setattr(StableDiffusion, "encode_images", encode if rows else none)


def test_previews_are_drawn_one_by_one_where_memory_runs_out(
    job: FineTuneRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pictures = []
    for rows, folder in ((100, "enough"), (2, "little")):
        with monkeypatch.context() as patch:
            _limit_rows(patch, rows, torch.OutOfMemoryError)
            result = run(job.model_copy(update={"work_folder": tmp_path / folder}), Events())
        pictures.append(decode_image(Path(result["preview"]).read_bytes()).astype(int))
    assert np.abs(pictures[0] - pictures[1]).max() <= 2


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
@pytest.mark.parametrize("rows", [0, 1])
def test_where_nothing_fits_it_is_said(
    job: FineTuneRun, monkeypatch: pytest.MonkeyPatch, rows: int, error: type[Exception]
) -> None:
    _limit_rows(monkeypatch, rows, error)
    with pytest.raises(ResourceExhaustedError) as caught:
        run(job, Events())
    assert caught.value.reason == "OUT_OF_MEMORY"


def test_a_process_that_the_kernel_kills_goes_on_with_smaller_parts() -> None:
    tried = []

    async def start(micro_batch: int) -> dict[str, Any]:
        tried.append(micro_batch)
        if micro_batch > room:
            raise ResourceExhaustedError("CHILD_KILLED", "killed")
        return {"micro_batch": micro_batch}

    room = 3
    assert asyncio.run(run_within_memory(start, 12)) == {"micro_batch": 3}
    assert tried == [12, 6, 3]
    room = 0
    with pytest.raises(ResourceExhaustedError):
        asyncio.run(run_within_memory(start, 5))
    assert tried == [12, 6, 3, 5, 3, 2, 1]
