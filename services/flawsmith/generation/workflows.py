"""The durable work of the generation service."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from flawsmith.common.checkpoints import Checkpoints
from flawsmith.common.child import run_child
from flawsmith.common.errors import AbortedError, ResourceExhaustedError
from flawsmith.common.images import decode_image
from flawsmith.common.jobs import Job, Workflow
from flawsmith.common.manifests import (
    AdapterManifest,
    AdapterPreview,
    CopyThresholds,
    Label,
    ObjectRef,
    Regime,
)
from flawsmith.common.object_store import ObjectStore
from flawsmith.common.resources import describe
from flawsmith.common.selection import select_fine_tuning, train_images
from flawsmith.generation.adapters import (
    ExportAdapterRequest,
    ImportAdapterRequest,
    export_adapter,
    import_adapter,
)
from flawsmith.generation.base_models import import_base_model, pull_base_model, verify_base_model
from flawsmith.generation.batches import generate_images, preview_prompt
from flawsmith.generation.catalog import download_base_model
from flawsmith.generation.copies import MAX_HELD_OUT, TrainingImages, calibrate
from flawsmith.generation.exporting import ExportRequest, export_batch
from flawsmith.generation.model_requests import ImportModelRequest, PullRequest, VerifyRequest
from flawsmith.generation.requests import FineTuneRequest, GenerateRequest, PreviewRequest, check_fine_tuning
from flawsmith.generation.spec import FineTuneRun


async def fine_tune_adapter(job: Job, request: FineTuneRequest) -> dict[str, Any]:
    """Train in a child process from the newest checkpoint, store what came out, publish the adapter last."""
    resources, spec = job.platform.resources, request.config

    async def prepare() -> dict[str, Any]:
        imported, base_model = await asyncio.to_thread(check_fine_tuning, resources, request)
        chosen = select_fine_tuning(imported.images, request.regime, spec.seed)
        # Normals, which every regime may use.
        unseen = [record for record in train_images(imported.images, Label.NORMAL) if record not in chosen]
        return {
            "held_out": [record.image.model_dump(mode="json") for record in unseen[:MAX_HELD_OUT]],
            "base_model": base_model.model_dump(mode="json"),
            "images": [record.image.model_dump(mode="json") for record in chosen],
            "masks": [None if record.mask is None else record.mask.model_dump(mode="json") for record in chosen],
        }

    async def train() -> dict[str, Any]:
        async with job.folder() as folder:
            return await _train(job, request, prepared, folder)

    async def find_thresholds() -> dict[str, Any] | None:
        return await asyncio.to_thread(_find_copy_thresholds, job.platform.store, prepared)

    await job.progress("prepare", 0, 1)
    prepared = await job.step("prepare", prepare)
    trained = await job.step("train", train)
    thresholds = await job.step("copy thresholds", find_thresholds)
    manifest = AdapterManifest(
        name=request.name,
        product=request.parent,
        base_model=spec.base_model,
        base_model_sha256=prepared["base_model"]["sha256"],
        regime=request.regime,
        algorithm=spec.algorithm.value,
        rank=spec.rank,
        weights=ObjectRef.model_validate(trained["weights"]),
        alpha=spec.alpha,
        instance_prompt=spec.instance_prompt,
        class_prompt=spec.class_prompt,
        training_images=tuple(ObjectRef.model_validate(ref) for ref in prepared["images"]),
        steps=trained["steps"],
        epochs=trained["epochs"],
        final_loss=trained["final_loss"],
        losses=ObjectRef.model_validate(trained["losses"]),
        loss_curve=ObjectRef.model_validate(trained["loss_curve"]),
        preview=ObjectRef.model_validate(trained["preview"]),
        previews=tuple(AdapterPreview.model_validate(preview) for preview in trained["previews"]),
        parameters={
            **spec.model_dump(mode="json"),
            **{name: trained[name] for name in ("height", "width", "buckets", "views", "micro_batch")},
        },
        copy_thresholds=None if thresholds is None else CopyThresholds.model_validate(thresholds),
        versions=trained["versions"],
        create_time=await job.now(),
    )

    async def publish() -> dict[str, Any]:
        return describe(manifest, await asyncio.to_thread(resources.publish, request.name, manifest))

    result: dict[str, Any] = await job.step("publish", publish)
    return result


def _find_copy_thresholds(store: ObjectStore, prepared: dict[str, Any]) -> dict[str, Any] | None:
    training, held_out = (
        [decode_image(store.get(ObjectRef.model_validate(ref))) for ref in prepared[name]]
        for name in ("images", "held_out")
    )
    thresholds = calibrate(TrainingImages(training), held_out)
    return None if thresholds is None else thresholds.model_dump(mode="json")


async def _train(job: Job, request: FineTuneRequest, prepared: dict[str, Any], folder: Path) -> dict[str, Any]:
    store: ObjectStore = job.platform.store
    checkpoints = Checkpoints(store, job.operation)

    def download() -> tuple[Path, list[Path], list[Path | None], Path | None]:
        model = download_base_model(
            job.platform.resources,
            ObjectRef.model_validate(prepared["base_model"]),
            job.settings.state_dir / "base-models",
        )
        images = [
            store.get_file(ObjectRef.model_validate(ref), folder / "images" / f"{index:05d}")
            for index, ref in enumerate(prepared["images"])
        ]
        masks = [
            None if ref is None else store.get_file(ObjectRef.model_validate(ref), folder / "masks" / f"{index:05d}")
            for index, ref in enumerate(prepared["masks"])
        ]
        return model, images, masks, checkpoints.newest(folder / "resume.pt")

    def keep(checkpoint: Path, step: int) -> None:
        checkpoints.keep(checkpoint, step)
        checkpoint.unlink()

    async def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "checkpoint":
            await asyncio.to_thread(keep, Path(event["path"]), event["step"])
        else:
            await job.progress(event["stage"], event["step"], event["total"], loss=event["loss"])

    async def stored(path: str) -> dict[str, Any]:
        return (await asyncio.to_thread(store.put_file, Path(path))).model_dump(mode="json")

    async def keep_last() -> str:
        """Make the newest checkpoint an object that outlives the operation, and say so."""
        last = await asyncio.to_thread(checkpoints.newest, folder / "last.pt")
        if last is None:
            return "there is no checkpoint before it"
        return f"the last good checkpoint is kept as {(await stored(str(last)))['uri']}"

    async def start(micro_batch: int) -> dict[str, Any]:
        model, images, masks, checkpoint = await asyncio.to_thread(download)
        run = FineTuneRun(
            spec=request.config,
            base_model=model,
            base_model_sha256=prepared["base_model"]["sha256"],
            images=tuple(images),
            good=request.regime is Regime.ZERO_SHOT,
            masks=tuple(masks),
            work_folder=folder,
            resume_from=checkpoint,
            threads=job.settings.job_threads(),
            micro_batch=micro_batch,
        )
        return await run_child(
            "flawsmith.generation.finetune", run, on_event=on_event, environment={"OMP_WAIT_POLICY": "passive"}
        )

    try:
        result = await run_within_memory(start, request.config.batch_size)
    except AbortedError as error:
        if error.reason != "TRAINING_DIVERGED":
            raise
        raise AbortedError(error.reason, f"{error.message}; {await keep_last()}") from error
    for name in ("weights", "losses", "loss_curve", "preview"):
        result[name] = await stored(result[name])
    result["previews"] = [
        {"step": preview["step"], "image": await stored(preview["path"])} for preview in result["previews"]
    ]
    return result


async def run_within_memory(start: Callable[[int], Awaitable[dict[str, Any]]], batch_size: int) -> dict[str, Any]:
    """Start a training process with all of a batch at once; with half as many again where it was killed.

    A process notices by itself when its device has no more memory, and goes on with less. When the machine has none,
    the kernel kills it; the next one goes on from the newest checkpoint.
    Raises ResourceExhaustedError (CHILD_KILLED) when one image at once is too much.
    """
    micro_batch = batch_size
    while True:
        try:
            return await start(micro_batch)
        except ResourceExhaustedError as error:
            if error.reason != "CHILD_KILLED" or micro_batch == 1:
                raise
        micro_batch = -(-micro_batch // 2)


WORKFLOWS = {
    # These wait for networks and disks: none holds up the drawing.
    "PullBaseModel": Workflow(run=pull_base_model, spec=PullRequest, waits=True),
    "ImportBaseModel": Workflow(run=import_base_model, spec=ImportModelRequest, waits=True),
    "VerifyBaseModel": Workflow(run=verify_base_model, spec=VerifyRequest, waits=True),
    "FineTuneAdapter": Workflow(run=fine_tune_adapter, spec=FineTuneRequest),
    "ImportAdapter": Workflow(run=import_adapter, spec=ImportAdapterRequest),
    "ExportAdapter": Workflow(run=export_adapter, spec=ExportAdapterRequest),
    "GenerateImages": Workflow(run=generate_images, spec=GenerateRequest),
    "PreviewPrompt": Workflow(run=preview_prompt, spec=PreviewRequest),
    "ExportBatch": Workflow(run=export_batch, spec=ExportRequest),
}
