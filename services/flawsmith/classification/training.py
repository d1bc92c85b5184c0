"""The training process: `python -m flawsmith.classification.training`, a `TrainingSpec` on stdin, events on stdout.

It prepares a cache, trains with checkpoints, exports, compares the export with PyTorch, and evaluates the exported
graph (what is served is what is measured), with the threshold set by rule from validation normals or out-of-fold
scores; the test split is only looked at afterwards.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import save_file

from flawsmith.classification.cache import build_cache
from flawsmith.classification.evaluation import evaluate, predictions_jsonl
from flawsmith.classification.export import check_parity, choose_golden, export_onnx, make_golden
from flawsmith.classification.fitting import Schedule, TrainingSet, fit, predict
from flawsmith.classification.inference import OnnxClassifier
from flawsmith.classification.model import ResNet50Classifier, load_backbone
from flawsmith.classification.recipes import RECIPES, Recipe
from flawsmith.classification.spec import TrainingImage, TrainingParameters, TrainingSpec
from flawsmith.classification.thresholds import needs_out_of_fold, set_threshold
from flawsmith.classification.trainable import check_trainable
from flawsmith.common.child import child_main
from flawsmith.common.errors import FailedPreconditionError
from flawsmith.common.manifests import Label, Source, Split

MAX_FOLDS = 5
LIBRARIES = ("torch", "transformers", "onnx", "onnxruntime", "numpy", "opencv-python-headless")


class Progress(Protocol):
    """What `flawsmith.common.child.Reporter` offers."""

    def progress(self, stage: str, step: int, total: int, loss: float | None = None) -> None: ...

    def checkpoint(self, path: Path, step: int) -> None: ...


def count_steps(parameters: TrainingParameters, recipe: Recipe, positives: int) -> int:
    """Optimiser steps of a run: the given ones, or those of its epochs of 2 * positives images, rounded up."""
    if parameters.steps is not None:
        return parameters.steps
    epochs = parameters.epochs or recipe.epochs
    return math.ceil(epochs * 2 * positives / (parameters.batch_size or recipe.batch_size))


def run(spec: TrainingSpec, reporter: Progress) -> dict[str, Any]:
    """Train, export, gate, evaluate. Returns paths of the files written and figures, all JSON values.

    Result: `onnx`, `weights`, `golden`, `predictions` (split -> path), `threshold`, `validation`, `test`
    (`Evaluation` or None), `steps`, `epochs`, `batch_size`, `final_loss`, `onnx_max_abs_diff`, `versions`.
    Raises the errors of `check_trainable`, `build_cache`, `load_backbone`, `fit` and `check_parity`;
    FailedPreconditionError CHECKPOINT_MISMATCH where the checkpoint is another run's.
    """
    parameters, images = spec.parameters, spec.images
    check_trainable([(image.label, image.source, image.split) for image in images], parameters)
    torch.set_num_threads(spec.threads)
    # Once the loss is small, gradients and momenta reach denormal numbers, which the CPU handles 100x slower.
    torch.set_flush_denormal(True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    recipe = RECIPES[parameters.recipe]
    spec.work_folder.mkdir(parents=True, exist_ok=True)
    pixels = build_cache(
        [image.path for image in images],
        parameters.height,
        parameters.width,
        spec.work_folder / f"images-{_digest(*(image.sha256 for image in images))[:16]}.npy",
        lambda done, total: reporter.progress("prepare", done, total),
    )
    usable = [
        index
        for index, image in enumerate(images)
        if image.split is Split.TRAIN and (parameters.include_synthetic or image.source is Source.REAL)
    ]
    data = TrainingSet(
        images=pixels,
        positives=tuple(index for index in usable if images[index].label is Label.DEFECT),
        negatives=tuple(index for index in usable if images[index].label is Label.NORMAL),
    )
    schedule = Schedule(
        steps=count_steps(parameters, recipe, len(data.positives)),
        batch_size=parameters.batch_size or recipe.batch_size,
        learning_rate=parameters.learning_rate or recipe.learning_rate,
        seed=parameters.seed,
    )
    model, final_loss, out_of_fold = _train(spec, recipe, schedule, data, device, reporter)

    reporter.progress("export", 0, 1)
    onnx, weights = spec.work_folder / "model.onnx", spec.work_folder / "weights.safetensors"
    golden_file = spec.work_folder / "golden.npz"
    export_onnx(model, parameters.height, parameters.width, onnx)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, weights)
    held_out = _real(images, Split.VALIDATION) or _real(images, Split.TRAIN)
    golden = make_golden(model, pixels[np.array(held_out)[choose_golden(_labels(images, held_out))]])
    golden.save(golden_file)
    difference = check_parity(onnx, golden, spec.threads)
    reporter.progress("export", 1, 1)

    session = OnnxClassifier(onnx, spec.threads)
    validation, test = _real(images, Split.VALIDATION), _real(images, Split.TEST)
    scores = _score(session, pixels, [*validation, *test], reporter)
    validation_scores, test_scores = scores[: len(validation)], scores[len(validation) :]
    threshold = set_threshold(
        parameters.threshold_rule,
        validation_scores[_labels(images, validation) == 0],
        np.array(list(out_of_fold.values()), dtype=np.float32),
    )
    result: dict[str, Any] = {"predictions": {}}
    for split, chosen, values in (
        (Split.VALIDATION, validation, validation_scores),
        (Split.TEST, test, test_scores),
    ):
        result[split.value] = None
        if chosen:
            path = spec.work_folder / f"predictions-{split.value}.jsonl"
            path.write_bytes(
                predictions_jsonl([images[i].sha256 for i in chosen], [images[i].label for i in chosen], values)
            )
            result["predictions"][split.value] = str(path)
            quality = evaluate(split, _labels(images, chosen), values, threshold.value)
            result[split.value] = quality.model_dump(mode="json")
    return result | {
        "onnx": str(onnx),
        "weights": str(weights),
        "golden": str(golden_file),
        "threshold": threshold.model_dump(mode="json"),
        "steps": schedule.steps,
        "epochs": schedule.steps * schedule.batch_size / (2 * len(data.positives)),
        "batch_size": schedule.batch_size,
        "final_loss": final_loss,
        "onnx_max_abs_diff": difference,
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }


def _train(
    spec: TrainingSpec,
    recipe: Recipe,
    schedule: Schedule,
    data: TrainingSet,
    device: torch.device,
    reporter: Progress,
) -> tuple[ResNet50Classifier, float, dict[int, float]]:
    """The network, its final loss, and out-of-fold scores of real positives (index -> probability; empty unless
    the rule needs them). Folds come first, and each finished one is in every later checkpoint."""
    fingerprint = _digest(
        spec.parameters.model_dump_json(),
        *(f"{image.sha256} {image.label} {image.split} {image.source}" for image in spec.images),
    )
    state: dict[str, Any] = {"fingerprint": fingerprint, "stage": 0, "out_of_fold": {}, "fit": None}
    if spec.resume_from is not None:
        state = torch.load(spec.resume_from, map_location=device, weights_only=True)
        if state["fingerprint"] != fingerprint:
            raise FailedPreconditionError(
                "CHECKPOINT_MISMATCH", "the checkpoint belongs to a run with other parameters or images; start anew"
            )
    out_of_fold: dict[int, float] = state["out_of_fold"]
    folds: list[tuple[int, ...]] = []
    if needs_out_of_fold(spec.parameters.threshold_rule):
        real = [index for index in data.positives if spec.images[index].source is Source.REAL]
        shuffled = np.random.default_rng(schedule.seed).permutation(real)
        folds = [tuple(part.tolist()) for part in np.array_split(shuffled, min(MAX_FOLDS, len(real)))]
    model, final_loss, steps_before = ResNet50Classifier(), math.nan, 0
    for stage, held_out in enumerate([*folds, ()]):
        part = TrainingSet(
            data.images, tuple(index for index in data.positives if index not in held_out), data.negatives
        )
        steps = math.ceil(schedule.steps * len(part.positives) / len(data.positives))
        before, steps_before = steps_before, steps_before + steps
        if stage < state["stage"]:
            continue
        name = f"fold {stage + 1} of {len(folds)}" if held_out else "train"
        torch.manual_seed(schedule.seed)
        model = ResNet50Classifier()
        if spec.initial_weights is not None:
            load_backbone(model, spec.initial_weights)

        def on_step(done: int, loss: float, name: str = name, steps: int = steps) -> None:
            reporter.progress(name, done, steps, loss)

        def checkpoint(done: int, fit_state: dict[str, Any], stage: int = stage, before: int = before) -> None:
            target = spec.work_folder / "checkpoint.pt"
            run_state = {"fingerprint": fingerprint, "stage": stage, "out_of_fold": out_of_fold, "fit": fit_state}
            _write_checkpoint(run_state, target)
            reporter.checkpoint(target, before + done)  # so that the newest has the highest number

        final_loss = fit(
            model,
            part,
            recipe,
            Schedule(steps, schedule.batch_size, schedule.learning_rate, schedule.seed),
            device=device,
            state=state["fit"] if stage == state["stage"] else None,
            on_step=on_step,
            checkpoint=checkpoint,
            checkpoint_every=spec.checkpoint_every or _checkpoint_interval(schedule.steps),
        )
        if held_out:
            scores = predict(model, data.images[list(held_out)], device)
            out_of_fold.update(zip(held_out, scores.tolist(), strict=True))
    return model, final_loss, out_of_fold


def _score(session: OnnxClassifier, pixels: np.ndarray, chosen: list[int], reporter: Progress) -> np.ndarray:
    scores = np.empty(len(chosen), dtype=np.float32)
    for start in range(0, len(chosen), 8):
        batch = chosen[start : start + 8]
        scores[start : start + 8] = session.probabilities(pixels[batch])
        reporter.progress("evaluate", start + len(batch), len(chosen))
    return scores


def _real(images: Sequence[TrainingImage], split: Split) -> list[int]:
    return [index for index, image in enumerate(images) if image.split is split and image.source is Source.REAL]


def _labels(images: Sequence[TrainingImage], chosen: list[int]) -> np.ndarray:
    return np.array([images[index].label is Label.DEFECT for index in chosen], dtype=np.int64)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _checkpoint_interval(steps: int) -> int:
    """A third of a short run; in a long one at most 100 steps are lost. A checkpoint costs about two steps' time."""
    return min(100, max(10, steps // 3))


def _write_checkpoint(state: dict[str, Any], target: Path) -> None:
    """Whole or not at all, whenever the process is killed."""
    partial = target.with_suffix(".partial")
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, target)


if __name__ == "__main__":
    child_main(TrainingSpec, run)
