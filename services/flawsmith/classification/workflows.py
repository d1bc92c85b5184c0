"""Durable jobs: train, evaluate, deploy."""

from __future__ import annotations

import asyncio
import io
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from flawsmith.classification.evaluation import evaluate, predictions_jsonl
from flawsmith.classification.inference import OnnxClassifier, require_parity
from flawsmith.classification.manifests import ClassifierVersionManifest, Evaluation
from flawsmith.classification.preprocess import preprocess
from flawsmith.classification.registry import Registry, new_deployment
from flawsmith.classification.requests import DeployClassifierSpec, EvaluateClassifierSpec, TrainClassifierSpec
from flawsmith.classification.spec import TrainingImage, TrainingParameters, TrainingSpec
from flawsmith.classification.trainable import check_trainable
from flawsmith.classification.triton_config import MAX_BATCH_SIZE, model_files, triton_model_name
from flawsmith.common.child import run_child
from flawsmith.common.desired_models import DesiredModels
from flawsmith.common.errors import FailedPreconditionError, FlawsmithError
from flawsmith.common.images import decode_image
from flawsmith.common.jobs import Job, Workflow
from flawsmith.common.manifests import DatasetManifest, ImageRecord, Label, ObjectRef, Source, Split
from flawsmith.common.resources import describe

_PARALLEL_DOWNLOADS = 8
_UNTIL_THE_ALIAS_MOVES_S = 600.0


async def train_classifier(job: Job, spec: TrainClassifierSpec) -> dict[str, Any]:
    """Train a version on a data set, evaluate it, publish it."""

    async def check() -> dict[str, Any]:
        dataset = await asyncio.to_thread(job.platform.resources.load, spec.dataset_manifest, DatasetManifest)
        parameters = spec.parameters(*_usual_size(dataset))
        check_trainable([(image.label, image.source, image.split) for image in dataset.images], parameters)
        return parameters.model_dump(mode="json")

    parameters = TrainingParameters.model_validate(await job.step("check", check))

    async def train() -> dict[str, Any]:
        async with job.folder() as folder:
            return await _train(job, spec, parameters, folder)

    trained = await job.step("train", train)

    async def tidy() -> None:
        await asyncio.to_thread(lambda: _delete(job, _checkpoints(job)))

    await job.step("tidy", tidy)
    manifest = ClassifierVersionManifest(
        name=spec.name,
        product=spec.name.split("/")[1],
        dataset_manifest=spec.dataset_manifest,
        recipe=parameters.recipe,
        height=parameters.height,
        width=parameters.width,
        seed=parameters.seed,
        initial_weights=spec.initial_weights,
        parameters=parameters.model_dump(mode="json"),
        create_time=await job.now(),
        **trained,
    )

    async def publish() -> dict[str, Any]:
        return describe(manifest, await asyncio.to_thread(job.platform.resources.publish, spec.name, manifest))

    return await job.step("publish", publish)


async def evaluate_classifier(job: Job, spec: EvaluateClassifierSpec) -> dict[str, Any]:
    """Evaluate a version's exported graph on the real images of a split."""

    async def run() -> dict[str, Any]:
        version = await asyncio.to_thread(Registry(job.platform.resources).version, spec.name)
        dataset = await asyncio.to_thread(job.platform.resources.load, spec.dataset_manifest, DatasetManifest)
        records = [image for image in dataset.images if image.split is spec.split and image.source is Source.REAL]
        if not records:
            raise FailedPreconditionError(
                "SPLIT_EMPTY", f"{dataset.name} has no real images in its {spec.split.value} split; choose another"
            )
        session = OnnxClassifier(await asyncio.to_thread(job.platform.store.get, version.onnx), _threads())
        scores: list[np.ndarray] = []
        for start in range(0, len(records), MAX_BATCH_SIZE):
            batch = records[start : start + MAX_BATCH_SIZE]
            scores.append(await asyncio.to_thread(_score, job, session, batch))
            await job.progress("evaluate", start + len(batch), len(records))
        found = np.concatenate(scores)
        digests, labels = [record.image.sha256 for record in records], [record.label for record in records]
        predictions = await asyncio.to_thread(
            job.platform.store.put_blob, predictions_jsonl(digests, labels, found), ".jsonl"
        )
        defective = np.array([label is Label.DEFECT for label in labels], dtype=np.int64)
        return evaluate(spec.split, defective, found, version.threshold.value, predictions).model_dump(mode="json")

    return await job.step("evaluate", run)


async def deploy_classifier(job: Job, spec: DeployClassifierSpec) -> dict[str, Any]:
    """Upload a version whole, have every Triton load it, compare each with ONNX Runtime on the golden images, move the
    alias."""
    registry, model, triton = Registry(job.platform.resources), triton_model_name(spec.name), job.platform.triton
    desired = DesiredModels(job.platform.store, job.settings.triton.repository)
    patience_s = job.settings.triton.load_timeout_s

    async def upload() -> None:
        await job.progress("upload", 0, 1)
        version = await asyncio.to_thread(registry.version, spec.name)
        onnx = await asyncio.to_thread(job.platform.store.get, version.onnx)
        files = model_files(model, version.height, version.width, onnx)
        for path, content in files.items():  # config.pbtxt last: before it there is no model
            await asyncio.to_thread(job.platform.store.put, f"{job.settings.triton.repository}/{path}", content)

    async def probe() -> float:
        await job.progress("load", 0, 1)
        version = await asyncio.to_thread(registry.version, spec.name)
        golden = np.load(io.BytesIO(await asyncio.to_thread(job.platform.store.get, version.golden)))["images"]
        onnx = await asyncio.to_thread(job.platform.store.get, version.onnx)
        expected = await asyncio.to_thread(OnnxClassifier(onnx, _threads()).probabilities, golden)
        await want()
        endpoints = await triton.wait_until_loaded(model, patience_s, lambda has, of: job.progress("load", has, of))
        differences = []
        for number, endpoint in enumerate(endpoints):
            await job.progress("probe", number, len(endpoints))
            answers = [
                (await triton.at(endpoint).infer(model, {"image": golden[i : i + MAX_BATCH_SIZE]}, ["probability"]))[
                    "probability"
                ].ravel()
                for i in range(0, len(golden), MAX_BATCH_SIZE)
            ]
            differences.append(
                require_parity(f"Triton at {endpoint} and ONNX Runtime", np.concatenate(answers), expected)
            )
        return max(differences)

    async def want() -> None:
        await asyncio.to_thread(desired.want_for, model, patience_s + _UNTIL_THE_ALIAS_MOVES_S)

    async def give_up() -> None:
        await asyncio.to_thread(desired.give_up, model)

    async def move_alias() -> dict[str, Any]:
        # A Triton may have come, or this worker may have been away, since the probe.
        await want()
        await triton.wait_until_loaded(model, patience_s)
        await asyncio.to_thread(desired.keep, model)
        moved = await asyncio.to_thread(registry.deploy, deployment)
        await asyncio.to_thread(registry.keep_deployed, desired, moved.classifier)
        await give_up()  # it is kept now
        return moved.model_dump(mode="json")

    await job.step("upload", upload)
    try:
        difference = await job.step("probe", probe)
        deployment = new_deployment(spec.name, difference, spec.principal, await job.now(), job.operation)
        return await job.step("move alias", move_alias)
    except FlawsmithError:
        # The champion that is deployed again is kept, and goes on answering.
        await job.step("give up", give_up)
        raise


async def _train(job: Job, spec: TrainClassifierSpec, parameters: TrainingParameters, folder: Path) -> dict[str, Any]:
    """Fields of the version's manifest that training decides; all files stored."""
    store = job.platform.store
    dataset = await asyncio.to_thread(job.platform.resources.load, spec.dataset_manifest, DatasetManifest)
    records = [
        image
        for image in dataset.images
        if image.source is Source.REAL or (parameters.include_synthetic and image.split is Split.TRAIN)
    ]
    paths = await _download(job, records, folder / "images")
    initial = None
    if spec.initial_weights is not None:
        initial = await asyncio.to_thread(store.get_file, spec.initial_weights, folder / "initial.safetensors")
    resume = None
    if checkpoints := await asyncio.to_thread(_checkpoints, job):
        resume = folder / "resume.pt"
        resume.write_bytes(await asyncio.to_thread(store.get_key, checkpoints[-1]))

    async def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "progress":
            await job.progress(event["stage"], event["step"], event["total"], loss=event["loss"])
        else:
            await asyncio.to_thread(_store_checkpoint, job, Path(event["path"]), event["step"])

    result = await run_child(
        "flawsmith.classification.training",
        TrainingSpec(
            parameters=parameters,
            images=tuple(
                TrainingImage(
                    path=path, sha256=record.image.sha256, label=record.label, source=record.source, split=record.split
                )
                for path, record in zip(paths, records, strict=True)
            ),
            work_folder=folder / "out",
            initial_weights=initial,
            resume_from=resume,
            threads=_threads(),
        ),
        on_event=on_event,
    )

    predictions = result.pop("predictions")
    for name in ("onnx", "weights", "golden"):
        result[name] = (await asyncio.to_thread(store.put_file, Path(result[name]))).model_dump(mode="json")
    for split, path in predictions.items():
        stored = await asyncio.to_thread(store.put_file, Path(path))
        quality = Evaluation.model_validate(result[split])
        result[split] = quality.model_copy(update={"predictions": stored}).model_dump(mode="json")
    return result


async def _download(job: Job, records: list[ImageRecord], folder: Path) -> list[Path]:
    slots, done = asyncio.Semaphore(_PARALLEL_DOWNLOADS), 0

    async def fetch(ref: ObjectRef) -> Path:
        nonlocal done
        async with slots:
            path = await asyncio.to_thread(job.platform.store.get_file, ref, folder / Path(ref.uri).name)
        done += 1
        if done % 50 == 0:
            await job.progress("download", done, len(records))
        return path

    await job.progress("download", 0, len(records))
    return await asyncio.gather(*(fetch(record.image) for record in records))


def _score(job: Job, session: OnnxClassifier, records: list[ImageRecord]) -> np.ndarray:
    images = [preprocess(decode_image(job.platform.store.get(record.image)), *session.size) for record in records]
    return session.probabilities(np.stack(images))


def _usual_size(dataset: DatasetManifest) -> tuple[int, int]:
    """(height, width) that most real images have; the smallest of equals, so that nothing is scaled up."""
    sizes = Counter((image.height, image.width) for image in dataset.images if image.source is Source.REAL)
    if not sizes:
        raise FailedPreconditionError("NO_REAL_IMAGES", f"{dataset.name} has no real images; import some")
    return min(sizes, key=lambda size: (-sizes[size], size))


def _checkpoints(job: Job) -> list[str]:
    """Keys of this operation's checkpoints, the newest last."""
    return sorted(job.platform.store.list_keys(f"checkpoints/{job.operation}/"))


def _store_checkpoint(job: Job, path: Path, step: int) -> None:
    former = _checkpoints(job)
    key = f"checkpoints/{job.operation}/{step:08d}.pt"
    job.platform.store.put(key, path.read_bytes())
    _delete(job, [old for old in former if old < key])


def _delete(job: Job, keys: list[str]) -> None:
    for key in keys:
        job.platform.store.delete_key(key)


def _threads() -> int:
    return len(os.sched_getaffinity(0))


WORKFLOWS: dict[str, Workflow] = {
    "TrainClassifier": Workflow(run=train_classifier, spec=TrainClassifierSpec),
    "EvaluateClassifier": Workflow(run=evaluate_classifier, spec=EvaluateClassifierSpec),
    "DeployClassifier": Workflow(run=deploy_classifier, spec=DeployClassifierSpec),
}
