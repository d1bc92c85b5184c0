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
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import save_file

from flawsmith.classification.cache import cache_images, cache_masks
from flawsmith.classification.calibration import fit_temperature, sigmoid
from flawsmith.classification.evaluation import best_f1_threshold, evaluate
from flawsmith.classification.export import check_parity, choose_golden, export_onnx, make_golden
from flawsmith.classification.fitting import Schedule, TrainingSet, fit, predict_logits
from flawsmith.classification.inference import OnnxClassifier
from flawsmith.classification.model import ResNetClassifier, load_initial_weights
from flawsmith.classification.predictions import Image, Predictions
from flawsmith.classification.processes import count_processes, is_peer, peers
from flawsmith.classification.recipes import RECIPES, Recipe
from flawsmith.classification.report import Section, make_report
from flawsmith.classification.spec import TrainingImage, TrainingParameters, TrainingSpec
from flawsmith.classification.thresholds import needs_out_of_fold, set_threshold
from flawsmith.classification.trainable import check_trainable
from flawsmith.common.child import child_main
from flawsmith.common.errors import FailedPreconditionError
from flawsmith.common.manifests import Label, Source, Split

MAX_FOLDS = 5
LIBRARIES = ("torch", "accelerate", "transformers", "onnx", "onnxruntime", "numpy", "opencv-python-headless")


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

    Result: `onnx`, `weights`, `golden`, `report`, `predictions` (split -> path), `threshold`, `calibration` or None,
    `validation`, `test` (`Evaluation` or None), `backbone`, `steps`, `epochs`, `batch_size`, `processes`, `final_loss`
    (mean of the last tenth of the steps), `onnx_max_abs_diff`, `versions`. Nothing in a process that only helps to
    train.
    Raises the errors of `check_trainable`, `cache_images`, `load_initial_weights`, `fit` and `check_parity`;
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
    data = _prepare(spec, recipe, reporter)
    pixels = data.images
    schedule = Schedule(
        steps=count_steps(parameters, recipe, len(data.positives)),
        batch_size=parameters.batch_size or recipe.batch_size,
        learning_rate=parameters.learning_rate or recipe.learning_rate,
        seed=parameters.seed,
    )
    processes = count_processes(spec, schedule.batch_size)
    with peers(spec, processes):
        model, losses, out_of_fold = _train(spec, recipe, schedule, data, device, reporter)
    if is_peer():
        return {}

    reporter.progress("export", 0, 1)
    onnx, weights = spec.work_folder / "model.onnx", spec.work_folder / "weights.safetensors"
    golden_file = spec.work_folder / "golden.npz"
    export_onnx(model, parameters.height, parameters.width, onnx)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, weights)
    # Defects too, and validation often has none: agreement on normals alone would say little about the rest.
    shown = sorted({*_real(images, Split.VALIDATION), *data.positives, *data.negatives})
    golden = make_golden(model, pixels[np.array(shown)[choose_golden(_labels(images, shown))]])
    golden.save(golden_file)
    difference = check_parity(onnx, golden, spec.threads)
    reporter.progress("export", 1, 1)

    session = OnnxClassifier(onnx, spec.threads)
    judged = [index for index, image in enumerate(images) if image.split is not Split.TRAIN]
    predictions = _predict(session, data, images, judged, reporter)
    by_split = {
        split: [row for row, index in enumerate(judged) if images[index].split is split]
        for split in (Split.VALIDATION, Split.TEST)
    }
    validation = predictions.take(by_split[Split.VALIDATION])
    real_validation = validation.take(validation.real)
    folds = np.array(list(out_of_fold.values()), dtype=np.float32)
    threshold = set_threshold(
        parameters.threshold_rule,
        real_validation.scores[real_validation.labels == 0],
        sigmoid(folds).astype(np.float32),
    )
    calibration = fit_temperature(
        np.concatenate([real_validation.logits, folds]),
        np.concatenate([real_validation.labels, np.ones(len(folds), dtype=np.int64)]),
    )
    best_f1 = best_f1_threshold(validation)
    result: dict[str, Any] = {"predictions": {}}
    sections: list[Section] = []
    for split, rows in by_split.items():
        result[split.value] = None
        found = predictions.take(rows)
        if not np.any(found.real):
            continue
        path = spec.work_folder / f"predictions-{split.value}.parquet"
        found.write_parquet(path, threshold, calibration)
        result["predictions"][split.value] = str(path)
        quality = evaluate(split, found, threshold, calibration, best_f1)
        result[split.value] = quality.model_dump(mode="json")
        chosen = [judged[row] for row in rows]
        sections.append(Section(quality, found, lambda row, chosen=chosen: pixels[chosen[row]]))  # type: ignore[misc]
    backbone = parameters.backbone or recipe.backbone
    epochs = schedule.steps * schedule.batch_size / (2 * len(data.positives))
    report = spec.work_folder / "report.html"
    facts = [
        ("recipe", f"{recipe.name}, {backbone.value}, seed {parameters.seed}"),
        ("initial weights", "given" if spec.initial_weights else "random"),
        ("input", f"{parameters.height} x {parameters.width} pixels (height x width)"),
        ("training", f"{schedule.steps} steps of {schedule.batch_size} images, {epochs:.1f} balanced epochs"),
        ("training images", _describe_training(data, images)),
    ]
    report.write_text(make_report("Training report", facts, threshold, calibration, sections, losses))
    return result | {
        "onnx": str(onnx),
        "weights": str(weights),
        "golden": str(golden_file),
        "report": str(report),
        "threshold": threshold.model_dump(mode="json"),
        "calibration": calibration.model_dump(mode="json") if calibration else None,
        "backbone": backbone.value,
        "steps": schedule.steps,
        "epochs": epochs,
        "batch_size": schedule.batch_size,
        "processes": processes,
        "final_loss": float(np.mean(losses[-max(1, len(losses) // 10) :])),
        "onnx_max_abs_diff": difference,
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }


def _prepare(spec: TrainingSpec, recipe: Recipe, reporter: Progress) -> TrainingSet:
    """All images decoded, and the masks of training defects where the recipe uses masks."""
    parameters, images = spec.parameters, spec.images

    def say(done: int, total: int) -> None:
        reporter.progress("prepare", done, total)

    size = (parameters.height, parameters.width)
    digest = _digest(*(image.sha256 for image in images))[:16]
    pixels = cache_images([image.path for image in images], *size, spec.work_folder / f"images-{digest}.npy", say)
    usable = [
        index
        for index, image in enumerate(images)
        if image.split is Split.TRAIN and (parameters.include_synthetic or image.source is Source.REAL)
    ]
    positives = tuple(index for index in usable if images[index].label is Label.DEFECT)
    masks, mask_of = None, {}
    if recipe.uses_masks:
        with_mask = [(index, path) for index in positives if (path := images[index].mask) is not None]
        masks = cache_masks([path for _, path in with_mask], *size, spec.work_folder / f"masks-{digest}.npy", say)
        # A defect that the crop cut away leaves an empty mask, which would teach that its cells are good.
        mask_of = {index: row for row, (index, _) in enumerate(with_mask) if masks[row].any()}
    negatives = tuple(index for index in usable if images[index].label is Label.NORMAL)
    real = frozenset(index for index in positives if images[index].source is Source.REAL)
    return TrainingSet(pixels, positives, negatives, masks, mask_of, real)


def _train(
    spec: TrainingSpec,
    recipe: Recipe,
    schedule: Schedule,
    data: TrainingSet,
    device: torch.device,
    reporter: Progress,
) -> tuple[ResNetClassifier, list[float], dict[int, float]]:
    """The network, the loss of every step, and out-of-fold logits of real positives (by index; empty unless the rule
    needs them). Folds come first, and each finished one is in every later checkpoint."""
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
    backbone = spec.parameters.backbone or recipe.backbone
    model, losses, steps_before = recipe.network(backbone), [], 0
    for stage, held_out in enumerate([*folds, ()]):
        part = replace(data, positives=tuple(index for index in data.positives if index not in held_out))
        steps = math.ceil(schedule.steps * len(part.positives) / len(data.positives))
        before, steps_before = steps_before, steps_before + steps
        if stage < state["stage"]:
            continue
        name = f"fold {stage + 1} of {len(folds)}" if held_out else "train"
        torch.manual_seed(schedule.seed)
        model = recipe.network(backbone)
        if spec.initial_weights is not None:
            load_initial_weights(model, spec.initial_weights)

        def on_step(done: int, loss: float, name: str = name, steps: int = steps) -> None:
            reporter.progress(name, done, steps, loss)

        def checkpoint(done: int, fit_state: dict[str, Any], stage: int = stage, before: int = before) -> None:
            if is_peer():
                return
            target = spec.work_folder / "checkpoint.pt"
            run_state = {"fingerprint": fingerprint, "stage": stage, "out_of_fold": out_of_fold, "fit": fit_state}
            _write_checkpoint(run_state, target)
            reporter.checkpoint(target, before + done)  # so that the newest has the highest number

        losses = fit(
            model,
            part,
            recipe,
            replace(schedule, steps=steps),
            device=device,
            state=state["fit"] if stage == state["stage"] else None,
            on_step=on_step,
            checkpoint=checkpoint,
            checkpoint_every=spec.checkpoint_every or _checkpoint_interval(schedule.steps),
        )
        if held_out:
            logits = predict_logits(model, data.images[list(held_out)], model.head.weight.device)
            out_of_fold.update(zip(held_out, logits.tolist(), strict=True))
    return model, losses, out_of_fold


def _predict(
    session: OnnxClassifier, data: TrainingSet, images: Sequence[TrainingImage], chosen: list[int], reporter: Progress
) -> Predictions:
    """What the exported graph, which is what is served, says of images."""
    logits, scores = np.empty(len(chosen), dtype=np.float32), np.empty(len(chosen), dtype=np.float32)
    for start in range(0, len(chosen), 8):
        batch = chosen[start : start + 8]
        outputs = session.run(data.images[batch], ("probability", "logit"))
        scores[start : start + 8] = outputs["probability"].ravel()
        logits[start : start + 8] = outputs["logit"].ravel()
        reporter.progress("evaluate", start + len(batch), len(chosen))
    rows = tuple(
        Image(image.sha256, image.original_path, image.split, image.label, image.source, image.defect_type)
        for image in (images[index] for index in chosen)
    )
    return Predictions(rows, logits, scores)


def _describe_training(data: TrainingSet, images: Sequence[TrainingImage]) -> str:
    def by_source(chosen: Sequence[int]) -> str:
        sources = Counter(images[index].source.value for index in chosen)
        return ", ".join(f"{count} {source}" for source, count in sorted(sources.items()))

    masks = f"; masks of {len(data.mask_of)}" if data.mask_of else ""
    return (
        f"{len(data.negatives)} normals ({by_source(data.negatives)}), {len(data.positives)} defects "
        f"({by_source(data.positives)}{masks})"
    )


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
