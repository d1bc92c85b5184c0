"""The fine-tuning process: `python -m flawsmith.generation.finetune`, a `FineTuneRun` on stdin, events on stdout."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F

from flawsmith.common.child import child_main
from flawsmith.common.errors import FailedPreconditionError, ResourceExhaustedError
from flawsmith.common.images import decode_image, decode_mask, encode_png
from flawsmith.generation.buckets import Size, product_size
from flawsmith.generation.defect_views import cache_views, cut_views
from flawsmith.generation.diffusion import LatentDiffusionModel, load_model
from flawsmith.generation.dreambooth import (
    DRAWN_AT_ONCE,
    CachedImage,
    TrainingResult,
    cache_latents,
    count_steps,
    draw_prior,
    place_images,
    train,
)
from flawsmith.generation.lora import set_ratio, write_kohya
from flawsmith.generation.loss_curve import draw_loss_curve
from flawsmith.generation.memory import OUT_OF_MEMORY, in_parts, out_of_memory
from flawsmith.generation.presets import drawing_values
from flawsmith.generation.sampling import sample_latents
from flawsmith.generation.signal_leak import SignalLeak, to_json
from flawsmith.generation.spec import FineTuneRun

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "safetensors", "numpy")
PREVIEW_IMAGES, PREVIEW_STEPS = 4, 20


class Progress(Protocol):
    """What `flawsmith.common.child.Reporter` offers."""

    def progress(self, stage: str, step: int, total: int, loss: float | None = None) -> None: ...

    def checkpoint(self, path: Path, step: int) -> None: ...


def run(job: FineTuneRun, reporter: Progress) -> dict[str, Any]:
    """Fine-tune; returns paths of what was written and figures, all JSON values: `weights`, `losses` (a JSON list),
    `loss_curve` and `preview` (pictures), `previews` (of steps before the last: step and path); `steps`, `epochs`,
    `final_loss`, `height`, `width` (of images of the product), `buckets` (sizes trained at), `views` (of defects: how
    many), `micro_batch`, `versions`.

    Raises the errors of `load_model`, `check_size` and `train`, InvalidArgumentError (IMAGE_UNREADABLE),
    ResourceExhaustedError (OUT_OF_MEMORY), and FailedPreconditionError (CHECKPOINT_MISMATCH) where the checkpoint is
    another run's.
    """
    try:
        return _fine_tune(job, reporter)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise ResourceExhaustedError(
            OUT_OF_MEMORY,
            "the device has no room for the base model and an image; train at a lower resolution, or on a device with "
            "more memory",
        ) from error


def _fine_tune(job: FineTuneRun, reporter: Progress) -> dict[str, Any]:
    torch.set_num_threads(job.threads)
    # Once gradients are small, momenta reach denormal numbers, which the CPU handles 100x slower.
    torch.set_flush_denormal(True)
    spec, device = job.spec, torch.device("cuda" if torch.cuda.is_available() else "cpu")
    job.work_folder.mkdir(parents=True, exist_ok=True)
    reporter.progress("load", 0, 1)
    files = [path.read_bytes() for path in job.images]
    mask_files = [None if path is None else path.read_bytes() for path in job.masks]
    images = [decode_image(data) for data in files]
    if job.good:
        masks = [np.zeros(image.shape[:2], np.uint8) for image in images]
    else:
        masks = [None if data is None else decode_mask(data) for data in mask_files] or [None] * len(images)
    model = load_model(job.base_model, device=device)
    placements = place_images(model, images, spec)
    size = product_size(placements, multiple=model.size_multiple) if spec.height is None else placements[0].scaled
    model.check_size(*size)
    fingerprint = _fingerprint(job, [*files, *(data or b"" for data in mask_files)])
    state = None if job.resume_from is None else _read_checkpoint(job.resume_from, fingerprint, device)
    reporter.progress("load", 1, 1)

    instances = cache_latents(model, images, placements, spec.flips)
    leak = None
    if spec.leak_start:
        leak = SignalLeak(_mean_latents(instances, size, model.size_multiple), spec.leak_start)
    views = cache_views(model, cut_views(images, masks, model.nearest_side(model.native_side), spec))
    instances += views
    previews: dict[int, bytes] = {}
    if state is None:
        prior = draw_prior(
            model, spec, placements, lambda done, total: reporter.progress("prior", done, total),
            micro_batch=job.micro_batch,
        )  # fmt: skip
    else:
        prior = state["prior"]
        previews = {step: bytes(picture.cpu().numpy()) for step, picture in state["previews"].items()}
    steps = count_steps(spec, [instance.group for instance in instances])
    reporter.progress("train", 0 if state is None else len(state["train"]["losses"]), steps)

    def save_checkpoint(step: int, training: dict[str, Any]) -> None:
        path = job.work_folder / f"checkpoint-{step:08d}.pt"
        pictures = {step: torch.frombuffer(bytearray(data), dtype=torch.uint8) for step, data in previews.items()}
        _write_whole({"fingerprint": fingerprint, "prior": prior, "previews": pictures, "train": training}, path)
        reporter.checkpoint(path, step)

    def save_preview(step: int) -> None:
        if step < steps:
            previews[step] = encode_png(_preview(model, job, leak, size, reporter))

    result = train(
        model,
        instances,
        prior,
        spec,
        state=None if state is None else state["train"],
        on_step=lambda step, total, loss: reporter.progress("train", step, total, loss),
        on_preview=save_preview,
        on_checkpoint=save_checkpoint,
        checkpoint_every=job.checkpoint_every,
        micro_batch=job.micro_batch,
    )
    for network in model.networks.values():
        set_ratio(network, spec.alpha)
    last = encode_png(_preview(model, job, leak, size, reporter))
    return {
        **_write_outputs(job, result, leak, previews, last),
        "steps": result.steps,
        "epochs": result.epochs,
        "final_loss": result.final_loss,
        "height": size[0],
        "width": size[1],
        "buckets": sorted({placement.bucket for placement in placements}),
        "views": len(views),
        "micro_batch": result.micro_batch,
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }


def _write_outputs(
    job: FineTuneRun, result: TrainingResult, leak: SignalLeak | None, previews: dict[int, bytes], last: bytes
) -> dict[str, Any]:
    """Write the adapter's files; returns their paths."""
    folder = job.work_folder
    metadata = {
        "base_model": job.spec.base_model,
        "base_model_sha256": job.base_model_sha256,
        "algorithm": job.spec.algorithm.value,
        "signal_leak": None if leak is None else to_json(leak),
    }
    write_kohya(result.weights, folder / "adapter.safetensors", metadata=json.dumps(metadata, sort_keys=True))
    pictures = {f"preview-{step:08d}.png": data for step, data in sorted(previews.items())}
    curve = encode_png(draw_loss_curve(result.losses))
    for name, data in {**pictures, "preview.png": last, "loss-curve.png": curve}.items():
        (folder / name).write_bytes(data)
    (folder / "losses.json").write_text(json.dumps(result.losses))
    return {
        "weights": str(folder / "adapter.safetensors"),
        "losses": str(folder / "losses.json"),
        "loss_curve": str(folder / "loss-curve.png"),
        "preview": str(folder / "preview.png"),
        "previews": [
            {"step": step, "path": str(folder / name)} for step, name in zip(sorted(previews), pictures, strict=True)
        ],
    }


def _preview(
    model: LatentDiffusionModel, job: FineTuneRun, leak: SignalLeak | None, size: Size, reporter: Progress
) -> np.ndarray:
    """Samples of the instance prompt as the model draws it now, side by side."""
    spec = job.spec
    total = PREVIEW_IMAGES * PREVIEW_STEPS

    def draw(rows: slice) -> np.ndarray:
        seeds = [spec.seed + index for index in range(rows.start, rows.stop)]
        done_before = rows.start * PREVIEW_STEPS
        with model.precision(spec.precision):
            latents = sample_latents(
                model,
                spec.instance_prompt,
                "",
                height=size[0],
                width=size[1],
                steps=PREVIEW_STEPS,
                guidance=drawing_values(spec.base_model, model.architecture, adapted=True)["guidance"],
                seeds=seeds,
                clip_skip=spec.clip_skip,
                signal_leak=leak,
                on_step=lambda done: reporter.progress("preview", done_before + done * len(seeds), total),
            )
        return model.decode_latents(latents)

    parts = in_parts(draw, PREVIEW_IMAGES, min(DRAWN_AT_ONCE, job.micro_batch or DRAWN_AT_ONCE))
    reporter.progress("preview", total, total)
    return np.concatenate([image for part in parts for image in part], axis=1)


def _mean_latents(instances: Sequence[CachedImage], size: Size, multiple: int) -> torch.Tensor:
    """Mean latents of the product's images at the size they are drawn at: channels x h x w."""
    grid = (size[0] // multiple, size[1] // multiple)
    means = [F.interpolate(instance.means, grid, mode="bilinear", antialias=True) for instance in instances]
    return torch.cat(means).mean(dim=0)


def _fingerprint(job: FineTuneRun, files: list[bytes]) -> str:
    parts = [job.spec.model_dump_json(), job.base_model_sha256, *(hashlib.sha256(data).hexdigest() for data in files)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _read_checkpoint(path: Path, fingerprint: str, device: torch.device) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    if state["fingerprint"] != fingerprint:
        raise FailedPreconditionError(
            "CHECKPOINT_MISMATCH", "the checkpoint belongs to a run with other parameters or images; start anew"
        )
    return state


def _write_whole(state: dict[str, Any], path: Path) -> None:
    """Whole or not at all, whenever the process is killed."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


if __name__ == "__main__":
    child_main(FineTuneRun, run)
