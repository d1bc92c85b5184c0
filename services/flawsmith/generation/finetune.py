"""The fine-tuning process: `python -m flawsmith.generation.finetune`, a `FineTuneRun` on stdin, events on stdout."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from flawsmith.common.child import child_main
from flawsmith.common.errors import FailedPreconditionError
from flawsmith.common.images import decode_image, encode_png
from flawsmith.generation.diffusion import LatentDiffusionModel, load_model
from flawsmith.generation.dreambooth import (
    TrainingResult,
    cache_latents,
    count_steps,
    draw_prior,
    native_size,
    scale_images,
    train,
)
from flawsmith.generation.lora import set_ratio, write_kohya
from flawsmith.generation.presets import drawing_values
from flawsmith.generation.sampling import sample_latents
from flawsmith.generation.signal_leak import SignalLeak, to_json
from flawsmith.generation.spec import FineTuneRun, FineTuneSpec

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "safetensors", "numpy")
PREVIEW_IMAGES, PREVIEW_STEPS = 4, 20


class Progress(Protocol):
    """What `flawsmith.common.child.Reporter` offers."""

    def progress(self, stage: str, step: int, total: int, loss: float | None = None) -> None: ...

    def checkpoint(self, path: Path, step: int) -> None: ...


def run(job: FineTuneRun, reporter: Progress) -> dict[str, Any]:
    """Fine-tune; returns paths of what was written (`weights`, `preview`, `losses`) and figures, all JSON values:
    `steps`, `epochs`, `final_loss`, `height`, `width` (trained at), `versions`.

    Raises the errors of `load_model`, `check_size` and `train`, InvalidArgumentError (IMAGE_UNREADABLE), and
    FailedPreconditionError (CHECKPOINT_MISMATCH) where the checkpoint is another run's.
    """
    torch.set_num_threads(job.threads)
    # Once gradients are small, momenta reach denormal numbers, which the CPU handles 100x slower.
    torch.set_flush_denormal(True)
    spec, device = job.spec, torch.device("cuda" if torch.cuda.is_available() else "cpu")
    job.work_folder.mkdir(parents=True, exist_ok=True)
    reporter.progress("load", 0, 1)
    files = [path.read_bytes() for path in job.images]
    images = [decode_image(data) for data in files]
    model = load_model(job.base_model, device=device)
    height, width = native_size(model, images) if spec.height is None else (spec.height, spec.width or 0)
    model.check_size(height, width)
    fingerprint = _fingerprint(job, files)
    state = None if job.resume_from is None else _read_checkpoint(job.resume_from, fingerprint, device)
    reporter.progress("load", 1, 1)

    instances = cache_latents(model, scale_images(images, height, width))
    if state is None:
        prior = draw_prior(model, spec, height, width, lambda done, total: reporter.progress("prior", done, total))
    else:
        prior = state["prior"]
    steps = count_steps(spec, len(images))
    reporter.progress("train", 0 if state is None else len(state["train"]["losses"]), steps)

    def save_checkpoint(step: int, training: dict[str, Any]) -> None:
        path = job.work_folder / f"checkpoint-{step:08d}.pt"
        _write_whole({"fingerprint": fingerprint, "prior": prior, "train": training}, path)
        reporter.checkpoint(path, step)

    result = train(
        model,
        instances,
        prior,
        spec,
        state=None if state is None else state["train"],
        on_step=lambda step, total, loss: reporter.progress("train", step, total, loss),
        on_checkpoint=save_checkpoint,
        checkpoint_every=job.checkpoint_every,
    )
    leak = SignalLeak(instances.means.mean(dim=0), spec.leak_start) if spec.leak_start else None
    return _write_outputs(job, model, result, leak, height, width, reporter)


def _write_outputs(
    job: FineTuneRun,
    model: LatentDiffusionModel,
    result: TrainingResult,
    leak: SignalLeak | None,
    height: int,
    width: int,
    reporter: Progress,
) -> dict[str, Any]:
    weights, losses = job.work_folder / "adapter.safetensors", job.work_folder / "losses.json"
    metadata = {
        "base_model": job.spec.base_model,
        "base_model_sha256": job.base_model_sha256,
        "algorithm": job.spec.algorithm.value,
        "signal_leak": None if leak is None else to_json(leak),
    }
    write_kohya(result.weights, weights, metadata=json.dumps(metadata, sort_keys=True))
    losses.write_text(json.dumps(result.losses))
    preview = job.work_folder / "preview.png"
    preview.write_bytes(encode_png(_preview(model, job.spec, leak, height, width, reporter)))
    return {
        "weights": str(weights),
        "losses": str(losses),
        "preview": str(preview),
        "steps": result.steps,
        "epochs": result.epochs,
        "final_loss": result.final_loss,
        "height": height,
        "width": width,
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }


def _preview(
    model: LatentDiffusionModel,
    spec: FineTuneSpec,
    leak: SignalLeak | None,
    height: int,
    width: int,
    reporter: Progress,
) -> np.ndarray:
    """Samples of the instance prompt at the merge weight that batches will use, side by side."""
    for part in model.networks.values():
        set_ratio(part, spec.alpha)
    with model.precision(spec.precision):
        latents = sample_latents(
            model,
            spec.instance_prompt,
            "",
            height=height,
            width=width,
            steps=PREVIEW_STEPS,
            guidance=drawing_values(spec.base_model)["guidance"],
            seeds=[spec.seed + index for index in range(PREVIEW_IMAGES)],
            clip_skip=spec.clip_skip,
            signal_leak=leak,
            on_step=lambda done: reporter.progress("preview", done, PREVIEW_STEPS),
        )
    reporter.progress("preview", PREVIEW_STEPS, PREVIEW_STEPS)
    return np.concatenate(list(model.decode_latents(latents)), axis=1)


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
