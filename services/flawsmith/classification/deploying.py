"""Durable jobs: deploy a variant of a version under an alias, export files for other runtimes."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flawsmith.classification.answerable import check_answerable, real_sizes
from flawsmith.classification.downloading import download
from flawsmith.classification.drift import IMAGES, EmbeddingStatistics
from flawsmith.classification.exporting import ExportSpec, LabelledImage
from flawsmith.classification.exports import ClassifierExportManifest, ExportedFile, export_name, int8_graph
from flawsmith.classification.graph import OUTPUTS
from flawsmith.classification.inference import OnnxClassifier, require_parity
from flawsmith.classification.manifests import ClassifierVersionManifest
from flawsmith.classification.preprocess import preprocess
from flawsmith.classification.registry import Deployment, Registry, SizeRange
from flawsmith.classification.requests import DeployClassifierSpec, ExportClassifierSpec
from flawsmith.classification.triton_config import MAX_BATCH_SIZE, model_files, triton_model_name
from flawsmith.classification.variants import check_gate_possible
from flawsmith.common.child import run_child
from flawsmith.common.desired_models import DesiredModels
from flawsmith.common.errors import FailedPreconditionError, FlawsmithError
from flawsmith.common.images import decode_image
from flawsmith.common.jobs import Job
from flawsmith.common.manifests import DatasetManifest, ImageRecord, Label, ObjectRef, Source, Split
from flawsmith.common.resources import describe

_UNTIL_THE_ALIAS_MOVES_S = 600.0


async def deploy_classifier(job: Job, spec: DeployClassifierSpec) -> dict[str, Any]:
    """Upload a variant whole, have every Triton load it, compare each with PyTorch and ONNX Runtime on the golden
    images, move the alias."""
    registry, triton = Registry(job.platform.resources), job.platform.triton
    model = triton_model_name(spec.name, spec.precision)
    desired = DesiredModels(job.platform.store, job.settings.triton.repository)
    patience_s = job.settings.triton.load_timeout_s

    async def upload() -> None:
        await job.progress("upload", 0, 1)
        version = await asyncio.to_thread(registry.version, spec.name)
        dataset = await asyncio.to_thread(job.platform.resources.load, version.dataset_manifest, DatasetManifest)
        check_answerable(real_sizes(dataset), (version.height, version.width))
        onnx = await asyncio.to_thread(_graph, job, spec, version)
        if OnnxClassifier(onnx, 1).outputs != OUTPUTS:
            raise FailedPreconditionError(
                "VERSION_OUTDATED", f"{spec.name} was exported by an earlier release; train it again to deploy it"
            )
        files = model_files(
            model, version.height, version.width, onnx,
            backend=job.settings.triton.classifier_backend, precision=spec.precision,
        )  # fmt: skip
        for path, content in files.items():  # config.pbtxt last: before it there is no model
            await asyncio.to_thread(job.platform.store.put, f"{job.settings.triton.repository}/{path}", content)

    async def describe_product() -> dict[str, Any]:
        version = await asyncio.to_thread(registry.version, spec.name)
        onnx = await asyncio.to_thread(_graph, job, spec, version)
        classifier = OnnxClassifier(onnx, job.settings.job_threads())
        return await asyncio.to_thread(_describe_product, job, version, classifier)

    async def probe() -> dict[str, float | None]:
        await job.progress("load", 0, 1)
        version = await asyncio.to_thread(registry.version, spec.name)
        golden = np.load(io.BytesIO(await asyncio.to_thread(job.platform.store.get, version.golden)))
        images, eager = golden["images"], golden["probability"]
        onnx = await asyncio.to_thread(_graph, job, spec, version)
        expected = await asyncio.to_thread(OnnxClassifier(onnx, job.settings.job_threads()).probabilities, images)
        await want()
        endpoints = await triton.wait_until_loaded(model, patience_s, lambda has, of: job.progress("load", has, of))
        from_onnx, from_eager = [], []
        for number, endpoint in enumerate(endpoints):
            await job.progress("probe", number, len(endpoints))
            answers = [
                (await triton.at(endpoint).infer(model, {"image": images[i : i + MAX_BATCH_SIZE]}, ["probability"]))[
                    "probability"
                ].ravel()
                for i in range(0, len(images), MAX_BATCH_SIZE)
            ]
            ours, name = np.concatenate(answers), f"Triton at {endpoint}"
            from_onnx.append(require_parity(f"{name} and ONNX Runtime", ours, expected))
            if spec.precision == "fp32":  # int8 was gated by its export
                from_eager.append(require_parity(f"{name} and PyTorch", ours, eager))
        return {
            "max_abs_diff_vs_onnxruntime": max(from_onnx),
            "max_abs_diff_vs_pytorch": max(from_eager, default=None),
        }

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
    product = await job.step("describe product", describe_product)
    try:
        differences = await job.step("probe", probe)
        deployment = Deployment(
            action="deploy",
            alias=spec.alias,
            classifier=spec.name.rpartition("/versions/")[0],
            version=spec.name,
            precision=spec.precision,
            triton_model=model,
            size_policy=spec.size_policy,
            deployed_by=spec.principal,
            deploy_time=await job.now(),
            operation=job.operation,
            **product,
            **differences,
        )
        return await job.step("move alias", move_alias)
    except FlawsmithError:
        # The champion that is deployed again is kept, and goes on answering.
        await job.step("give up", give_up)
        raise


async def export_classifier(job: Job, spec: ExportClassifierSpec) -> dict[str, Any]:
    """Make files for another runtime, gate them, publish them; those that exist are the answer."""
    name = export_name(spec.name, spec.format)
    resources = job.platform.resources

    async def find() -> dict[str, Any] | None:
        if not await asyncio.to_thread(resources.exists, name):
            return None
        return describe(*await asyncio.to_thread(resources.get, name, ClassifierExportManifest))

    async def make() -> dict[str, Any]:
        async with job.folder() as folder:
            return await _make_export(job, spec, folder)

    found = await job.step("find", find)
    if found is not None:
        return found
    made = await job.step("make", make)
    manifest = ClassifierExportManifest(name=name, format=spec.format, create_time=await job.now(), **made)

    async def publish() -> dict[str, Any]:
        return describe(manifest, await asyncio.to_thread(resources.publish, name, manifest))

    return await job.step("publish", publish)


async def _make_export(job: Job, spec: ExportClassifierSpec, folder: Path) -> dict[str, Any]:
    """Fields of the export's manifest that making it decides; all files stored."""
    store = job.platform.store
    version = await asyncio.to_thread(Registry(job.platform.resources).version, spec.name)
    onnx = await asyncio.to_thread(store.get_file, version.onnx, folder / "served.onnx")
    golden = await asyncio.to_thread(store.get_file, version.golden, folder / "golden.npz")
    calibration: list[LabelledImage] = []
    test: list[LabelledImage] = []
    if spec.format in ("onnx_int8", "tensorrt"):
        dataset = await asyncio.to_thread(job.platform.resources.load, version.dataset_manifest, DatasetManifest)
        chosen = _real(dataset, Split.TEST)
        check_gate_possible(np.array([record.label is Label.DEFECT for record in chosen], dtype=np.int64))
        test = await _labelled(job, chosen, folder)
        if spec.format == "onnx_int8":
            calibration = await _labelled(job, _real(dataset, Split.TRAIN), folder)

    async def on_event(event: dict[str, Any]) -> None:
        await job.progress(event["stage"], event["step"], event["total"])

    made = await run_child(
        "flawsmith.classification.exporting",
        ExportSpec(
            format=spec.format,
            onnx=onnx,
            golden=golden,
            threshold=version.threshold,
            calibration=tuple(calibration),
            test=tuple(test),
            work_folder=folder / "out",
            threads=job.settings.job_threads(),
        ),
        on_event=on_event,
    )
    stored = [(name, await asyncio.to_thread(store.put_file, Path(path))) for name, path in made.pop("files").items()]
    return {**made, "files": tuple(ExportedFile(name=name, file=ref).model_dump(mode="json") for name, ref in stored)}


async def _labelled(job: Job, records: Sequence[ImageRecord], folder: Path) -> list[LabelledImage]:
    paths = await download(job, [record.image for record in records], folder / "images")
    return [LabelledImage(path=path, label=record.label) for path, record in zip(paths, records, strict=True)]


def _graph(job: Job, spec: DeployClassifierSpec, version: ClassifierVersionManifest) -> bytes:
    ref = version.onnx if spec.precision == "fp32" else int8_graph(job.platform.resources, spec.name)
    return job.platform.store.get(ref)


def _describe_product(job: Job, version: ClassifierVersionManifest, session: OnnxClassifier) -> dict[str, Any]:
    """Fields of a deployment that the data set decides: the sizes of its real images, and what normals look like to the
    network. Normals of validation come first, for the network has not been trained on them."""
    dataset = job.platform.resources.load(version.dataset_manifest, DatasetManifest)
    normals = [
        image.image
        for split in (Split.VALIDATION, Split.TRAIN)
        for image in _real(dataset, split)
        if image.label is Label.NORMAL
    ][:IMAGES]
    statistics = EmbeddingStatistics.of(_embeddings(job, normals, session)) if normals else None
    embeddings: ObjectRef | None = None
    if statistics is not None:
        embeddings = job.platform.store.put_blob(statistics.save(), ".npz")
    heights, widths = zip(*real_sizes(dataset), strict=True)
    sizes = SizeRange(
        height_min=min(heights), height_max=max(heights), width_min=min(widths), width_max=max(widths)
    )  # fmt: skip
    return {
        "sizes": sizes.model_dump(),
        "embeddings": embeddings.model_dump(mode="json") if embeddings is not None else None,
    }


def _embeddings(job: Job, normals: list[ObjectRef], session: OnnxClassifier) -> np.ndarray:
    found = []
    for ref in normals:
        image = preprocess(decode_image(job.platform.store.get(ref)), *session.size)
        found.append(session.run(image[None], ["embedding"])["embedding"][0])
    return np.stack(found)


def _real(dataset: DatasetManifest, split: Split) -> list[ImageRecord]:
    return [image for image in dataset.images if image.split is split and image.source is Source.REAL]
