"""Durable jobs: train, evaluate; and those of `deploying`."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from flawsmith.classification.answerable import Size, check_enlargement, real_sizes
from flawsmith.classification.deploying import deploy_classifier, export_classifier
from flawsmith.classification.downloading import download
from flawsmith.classification.evaluation import evaluate
from flawsmith.classification.hub import fetch_weights
from flawsmith.classification.inference import OnnxClassifier
from flawsmith.classification.manifests import ClassifierVersionManifest, Evaluation
from flawsmith.classification.predictions import Image, Predictions
from flawsmith.classification.preprocess import preprocess
from flawsmith.classification.recipes import RECIPES
from flawsmith.classification.registry import Registry
from flawsmith.classification.report import Section, make_report
from flawsmith.classification.requests import (
    DeployClassifierSpec,
    EvaluateClassifierSpec,
    ExportClassifierSpec,
    TrainClassifierSpec,
)
from flawsmith.classification.spec import TrainingImage, TrainingParameters, TrainingSpec
from flawsmith.classification.trainable import check_trainable
from flawsmith.classification.triton_config import MAX_BATCH_SIZE
from flawsmith.common.checkpoints import Checkpoints
from flawsmith.common.child import run_child
from flawsmith.common.errors import FailedPreconditionError
from flawsmith.common.images import decode_image
from flawsmith.common.jobs import Job, Workflow
from flawsmith.common.manifests import DatasetManifest, ImageRecord, ObjectRef, Source, Split
from flawsmith.common.resources import describe


async def train_classifier(job: Job, spec: TrainClassifierSpec) -> dict[str, Any]:
    """Train a version on a data set, evaluate it, publish it."""

    async def check() -> dict[str, Any]:
        dataset = await asyncio.to_thread(job.platform.resources.load, spec.dataset_manifest, DatasetManifest)
        parameters = spec.parameters(*_usual_size(dataset))
        check_enlargement(real_sizes(dataset), (parameters.height, parameters.width))
        check_trainable([(image.label, image.source, image.split) for image in dataset.images], parameters)
        return parameters.model_dump(mode="json")

    parameters = TrainingParameters.model_validate(await job.step("check", check))

    async def fetch() -> dict[str, Any] | None:
        if spec.initial_hub_model is None:
            return spec.initial_weights.model_dump(mode="json") if spec.initial_weights else None
        async with job.folder() as folder:
            await job.progress("fetch", 0, 1)
            path = await asyncio.to_thread(fetch_weights, spec.initial_hub_model, folder)
            return (await asyncio.to_thread(job.platform.store.put_file, path)).model_dump(mode="json")

    fetched = await job.step("fetch", fetch)
    initial_weights = ObjectRef.model_validate(fetched) if fetched else None

    async def train() -> dict[str, Any]:
        async with job.folder() as folder:
            return await _train(job, spec.dataset_manifest, parameters, initial_weights, folder)

    trained = await job.step("train", train)
    manifest = ClassifierVersionManifest(
        name=spec.name,
        product=spec.name.split("/")[1],
        dataset_manifest=spec.dataset_manifest,
        recipe=parameters.recipe,
        height=parameters.height,
        width=parameters.width,
        seed=parameters.seed,
        initial_weights=initial_weights,
        initial_hub_model=spec.initial_hub_model,
        parameters=parameters.model_dump(mode="json"),
        create_time=await job.now(),
        **trained,
    )

    async def publish() -> dict[str, Any]:
        return describe(manifest, await asyncio.to_thread(job.platform.resources.publish, spec.name, manifest))

    return await job.step("publish", publish)


async def evaluate_classifier(job: Job, spec: EvaluateClassifierSpec) -> dict[str, Any]:
    """Evaluate a version's exported graph on a split, and publish what was found beside the version."""

    async def run() -> dict[str, Any]:
        store = job.platform.store
        version = await asyncio.to_thread(Registry(job.platform.resources).version, spec.name)
        dataset = await asyncio.to_thread(job.platform.resources.load, spec.dataset_manifest, DatasetManifest)
        records = [image for image in dataset.images if image.split is spec.split]
        if not any(record.source is Source.REAL for record in records):
            raise FailedPreconditionError(
                "SPLIT_EMPTY", f"{dataset.name} has no real images in its {spec.split.value} split; choose another"
            )
        session = OnnxClassifier(await asyncio.to_thread(store.get, version.onnx), job.settings.job_threads())

        def pixels(row: int) -> np.ndarray:
            return preprocess(decode_image(store.get(records[row].image)), version.height, version.width)

        def score(rows: range) -> dict[str, np.ndarray]:
            return session.run(np.stack([pixels(row) for row in rows]), ("probability", "logit"))

        outputs = []
        for start in range(0, len(records), MAX_BATCH_SIZE):
            rows = range(start, min(start + MAX_BATCH_SIZE, len(records)))
            outputs.append(await asyncio.to_thread(score, rows))
            await job.progress("evaluate", rows.stop, len(records))
        logits, scores = (np.concatenate([out[name].ravel() for out in outputs]) for name in ("logit", "probability"))
        predictions = Predictions(tuple(_image(record) for record in records), logits, scores)
        best = version.validation.at_best_f1_here if version.validation else None
        quality = await asyncio.to_thread(
            evaluate, spec.split, predictions, version.threshold, version.calibration, best.threshold if best else None
        )
        facts = [("classifier version", version.name), ("data set", dataset.name), ("recipe", version.recipe)]
        report = await asyncio.to_thread(
            make_report, "Evaluation", facts, version.threshold, version.calibration,
            [Section(quality, predictions, pixels)],
        )  # fmt: skip
        async with job.folder() as folder:
            table = folder / "predictions.parquet"
            await asyncio.to_thread(predictions.write_parquet, table, version.threshold, version.calibration)
            stored = await asyncio.to_thread(store.put_file, table)
        published = {
            "name": f"{spec.name}/evaluations/{job.operation[-12:]}",
            "dataset_manifest": spec.dataset_manifest,
            "predictions": stored,
            "report": await asyncio.to_thread(store.put_blob, report.encode(), ".html"),
        }
        return quality.model_copy(update=published).model_dump(mode="json")

    found = Evaluation.model_validate(await job.step("evaluate", run)).model_copy(
        update={"create_time": await job.now()}
    )

    async def publish() -> dict[str, Any]:
        await asyncio.to_thread(job.platform.resources.publish, found.name, found)
        return found.model_dump(mode="json")

    return await job.step("publish", publish)


async def _train(
    job: Job, dataset_manifest: ObjectRef, parameters: TrainingParameters, initial: ObjectRef | None, folder: Path
) -> dict[str, Any]:
    """Fields of the version's manifest that training decides; all files stored."""
    store = job.platform.store
    dataset = await asyncio.to_thread(job.platform.resources.load, dataset_manifest, DatasetManifest)
    records = [
        image
        for image in dataset.images
        if image.split is not Split.TRAIN or image.source is Source.REAL or parameters.include_synthetic
    ]
    masks = [
        record.mask if RECIPES[parameters.recipe].uses_masks and record.split is Split.TRAIN else None
        for record in records
    ]
    wanted = [*(record.image for record in records), *(mask for mask in masks if mask is not None)]
    paths = dict(zip((ref.uri for ref in wanted), await download(job, wanted, folder / "images"), strict=True))
    initial_file = None
    if initial is not None:
        initial_file = await asyncio.to_thread(store.get_file, initial, folder / "initial.safetensors")
    checkpoints = Checkpoints(store, job.operation)
    resume = await asyncio.to_thread(checkpoints.newest, folder / "resume.pt")

    async def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "progress":
            await job.progress(event["stage"], event["step"], event["total"], loss=event["loss"])
        else:
            await asyncio.to_thread(checkpoints.keep, Path(event["path"]), event["step"])

    result = await run_child(
        "flawsmith.classification.training",
        TrainingSpec(
            parameters=parameters,
            images=tuple(
                TrainingImage(
                    path=paths[record.image.uri], sha256=record.image.sha256, label=record.label, source=record.source,
                    split=record.split, original_path=record.original_path, defect_type=record.defect_type,
                    mask=paths[mask.uri] if mask else None,
                )
                for record, mask in zip(records, masks, strict=True)
            ),
            work_folder=folder / "out",
            initial_weights=initial_file,
            resume_from=resume,
            threads=job.settings.job_threads(),
        ),
        on_event=on_event,
    )  # fmt: skip

    predictions = result.pop("predictions")
    for name in ("onnx", "weights", "golden", "report"):
        result[name] = (await asyncio.to_thread(store.put_file, Path(result[name]))).model_dump(mode="json")
    for split, path in predictions.items():
        stored = await asyncio.to_thread(store.put_file, Path(path))
        quality = Evaluation.model_validate(result[split])
        result[split] = quality.model_copy(update={"predictions": stored}).model_dump(mode="json")
    return result


def _image(record: ImageRecord) -> Image:
    return Image(
        record.image.sha256, record.original_path, record.split, record.label, record.source, record.defect_type
    )


def _usual_size(dataset: DatasetManifest) -> Size:
    """(height, width) that most real images have; the smallest of equals, so that nothing is scaled up."""
    sizes = Counter(real_sizes(dataset))
    if not sizes:
        raise FailedPreconditionError("NO_REAL_IMAGES", f"{dataset.name} has no real images; import some")
    return min(sizes, key=lambda size: (-sizes[size], size))


WORKFLOWS: dict[str, Workflow] = {
    "TrainClassifier": Workflow(run=train_classifier, spec=TrainClassifierSpec),
    "EvaluateClassifier": Workflow(run=evaluate_classifier, spec=EvaluateClassifierSpec),
    "DeployClassifier": Workflow(run=deploy_classifier, spec=DeployClassifierSpec),
    "ExportClassifier": Workflow(run=export_classifier, spec=ExportClassifierSpec),
}
