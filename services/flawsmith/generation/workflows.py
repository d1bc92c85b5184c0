"""The durable work of the generation service."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from flawsmith.common.child import run_child
from flawsmith.common.errors import DataLossError, NotFoundError
from flawsmith.common.images import encode_png
from flawsmith.common.jobs import Job, Workflow
from flawsmith.common.manifests import (
    AdapterManifest,
    BatchManifest,
    ImageRecord,
    Label,
    ObjectRef,
    Source,
    Split,
)
from flawsmith.common.object_store import ObjectStore
from flawsmith.common.resources import describe
from flawsmith.common.selection import select_fine_tuning
from flawsmith.generation.catalog import download_base_model
from flawsmith.generation.drawing_request import DrawingRequest, to_tensors
from flawsmith.generation.presets import drawing_values
from flawsmith.generation.prompts import Prompt
from flawsmith.generation.requests import FineTuneRequest, GenerateRequest, check_fine_tuning, check_generation
from flawsmith.generation.spec import FineTuneRun

CHUNK = 4
"""Images a step at most: what a killed worker repeats, and what a cancelled one still draws."""
CHUNK_WORK = 4 * 256 * 256 * 50
"""Pixels times denoising steps of a step at most (one image is always allowed); on two CPU cores about two minutes."""
MODEL = "diffusion"


async def fine_tune_adapter(job: Job, request: FineTuneRequest) -> dict[str, Any]:
    """Train in a child process from the newest checkpoint, store what came out, publish the adapter last."""
    resources, spec = job.platform.resources, request.config

    async def prepare() -> dict[str, Any]:
        imported, base_model = await asyncio.to_thread(check_fine_tuning, resources, request)
        chosen = select_fine_tuning(imported.images, request.regime, request.seed)
        return {
            "base_model": base_model.model_dump(mode="json"),
            "images": [record.image.model_dump(mode="json") for record in chosen],
        }

    async def train() -> dict[str, Any]:
        async with job.folder() as folder:
            return await _train(job, request, prepared, folder)

    await job.progress("prepare", 0, 1)
    prepared = await job.step("prepare", prepare)
    trained = await job.step("train", train)
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
        preview=ObjectRef.model_validate(trained["preview"]),
        parameters={**spec.model_dump(mode="json"), "height": trained["height"], "width": trained["width"]},
        versions=trained["versions"],
        create_time=await job.now(),
    )

    async def publish() -> dict[str, Any]:
        ref = await asyncio.to_thread(resources.publish, request.name, manifest)
        await asyncio.to_thread(_drop_checkpoints, job.platform.store, job.operation)
        return describe(manifest, ref)

    result: dict[str, Any] = await job.step("publish", publish)
    return result


async def _train(job: Job, request: FineTuneRequest, prepared: dict[str, Any], folder: Path) -> dict[str, Any]:
    store: ObjectStore = job.platform.store

    def download() -> tuple[Path, list[Path], Path | None]:
        model = download_base_model(
            job.platform.resources,
            ObjectRef.model_validate(prepared["base_model"]),
            job.settings.state_dir / "base-models",
        )
        images = [
            store.get_file(ObjectRef.model_validate(ref), folder / "images" / f"{index:05d}")
            for index, ref in enumerate(prepared["images"])
        ]
        return model, images, _newest_checkpoint(store, job.operation, folder / "resume.pt")

    async def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "checkpoint":
            await asyncio.to_thread(_keep_checkpoint, store, job.operation, Path(event["path"]), event["step"])
        else:
            await job.progress(event["stage"], event["step"], event["total"], loss=event["loss"])

    model, images, checkpoint = await asyncio.to_thread(download)
    run = FineTuneRun(
        spec=request.config,
        base_model=model,
        base_model_sha256=prepared["base_model"]["sha256"],
        images=tuple(images),
        work_folder=folder,
        resume_from=checkpoint,
        threads=len(os.sched_getaffinity(0)),
    )
    result = await run_child(
        "flawsmith.generation.finetune", run, on_event=on_event, environment={"OMP_WAIT_POLICY": "passive"}
    )
    for name in ("weights", "losses", "preview"):
        result[name] = (await asyncio.to_thread(store.put_file, Path(result[name]))).model_dump(mode="json")
    return result


def _keep_checkpoint(store: ObjectStore, operation: str, path: Path, step: int) -> None:
    """Store a checkpoint, then forget the ones before it."""
    key = f"{_checkpoints(operation)}{step:08d}.pt"
    store.put(key, path.read_bytes())
    path.unlink()
    for old in list(store.list_keys(_checkpoints(operation))):
        if old < key:
            store.delete_key(old)


def _newest_checkpoint(store: ObjectStore, operation: str, path: Path) -> Path | None:
    for key in sorted(store.list_keys(_checkpoints(operation)), reverse=True):
        try:
            path.write_bytes(store.get_key(key))
        except (NotFoundError, DataLossError):  # a slower worker forgot it meanwhile
            continue
        return path
    return None


def _drop_checkpoints(store: ObjectStore, operation: str) -> None:
    for key in list(store.list_keys(_checkpoints(operation))):
        store.delete_key(key)


def _checkpoints(operation: str) -> str:
    return f"checkpoints/{operation}/"


async def generate_images(job: Job, request: GenerateRequest) -> dict[str, Any]:
    """Draw a batch through Triton, a few images a step; publish its manifest last."""
    resources = job.platform.resources

    async def prepare() -> dict[str, Any]:
        adapter, prompts = await asyncio.to_thread(
            check_generation, resources, request, require_approval=job.settings.require_approved_prompts
        )
        return {
            "adapter": adapter.model_dump(mode="json"),
            "prompts": [prompt.model_dump(mode="json") for prompt in prompts],
        }

    prepared = await job.step("prepare", prepare)
    adapter = AdapterManifest.model_validate(prepared["adapter"])
    prompts = [Prompt.model_validate(prompt) for prompt in prepared["prompts"]]

    async def draw(first: int) -> list[dict[str, Any]]:
        indices = range(first, min(first + chunk, request.count))
        records: dict[int, ImageRecord] = {}
        for position, prompt in enumerate(prompts):
            # Images take the prompts in turn; those of one prompt are drawn together.
            chosen = [index for index in indices if index % len(prompts) == position]
            if chosen:
                records.update(await _draw(job, request, adapter, prompt, steps, guidance, chosen))
        return [records[index].model_dump(mode="json") for index in indices]

    pixels = (request.height or adapter.parameters["height"]) * (request.width or adapter.parameters["width"])
    usual = drawing_values(adapter.base_model)
    steps = request.steps or usual["steps"]
    guidance = usual["guidance"] if request.guidance is None else request.guidance
    chunk = min(CHUNK, max(1, CHUNK_WORK // (pixels * steps)))
    records: list[dict[str, Any]] = []
    await job.progress("draw", 0, request.count)
    for first in range(0, request.count, chunk):
        records += await job.step("draw", draw, first)
        await job.progress("draw", len(records), request.count)
    manifest = BatchManifest(
        name=request.name,
        product=request.parent,
        source=Source.IN_DISTRIBUTION,
        method="text_to_image",
        seed=request.seed,
        images=tuple(ImageRecord.model_validate(record) for record in records),
        create_time=await job.now(),
    )

    async def publish() -> dict[str, Any]:
        return describe(manifest, await asyncio.to_thread(resources.publish, request.name, manifest))

    result: dict[str, Any] = await job.step("publish", publish)
    return result


async def _draw(
    job: Job,
    request: GenerateRequest,
    adapter: AdapterManifest,
    prompt: Prompt,
    steps: int,
    guidance: float,
    indices: list[int],
) -> dict[int, ImageRecord]:
    """Images of one prompt by their index in the batch, each with its sidecar, in the store."""
    trained = adapter.parameters
    drawing = DrawingRequest(
        strategy="text_to_image",
        prompt=prompt.text,
        negative_prompt=prompt.negative_text,
        base_model_sha256=adapter.base_model_sha256,
        adapter_uri=adapter.weights.uri,
        adapter_sha256=adapter.weights.sha256,
        alpha=adapter.alpha if request.alpha is None else request.alpha,
        height=request.height or trained["height"],
        width=request.width or trained["width"],
        steps=steps,
        guidance=guidance,
        clip_skip=trained["clip_skip"],
        seeds=tuple(request.seed + index for index in indices),
    )
    answer = await job.platform.triton.infer(MODEL, to_tensors(drawing), ["images", "info"])
    info = json.loads(answer["info"].item())
    parents = tuple(ref.sha256 for ref in adapter.training_images)
    made_with = {
        **drawing.model_dump(mode="json", exclude={"seeds", "prompt", "negative_prompt", "adapter_uri"}),
        **info,
        "adapter": adapter.name,
        "prompt": prompt.model_dump(mode="json"),
        "mask": None,
        "parents": list(parents),
    }

    def store_one(pixels: np.ndarray, seed: int) -> ImageRecord:
        store = job.platform.store
        sidecar = json.dumps({**made_with, "seed": seed}, sort_keys=True, indent=1).encode()
        return ImageRecord(
            image=store.put_blob(encode_png(pixels), ".png"),
            height=pixels.shape[0],
            width=pixels.shape[1],
            label=Label.DEFECT,
            source=Source.IN_DISTRIBUTION,
            split=Split.TRAIN,
            parents=parents,
            sidecar=store.put_blob(sidecar, ".json"),
        )

    return {
        index: await asyncio.to_thread(store_one, pixels, seed)
        for index, pixels, seed in zip(indices, answer["images"], drawing.seeds, strict=True)
    }


WORKFLOWS = {
    "FineTuneAdapter": Workflow(run=fine_tune_adapter, spec=FineTuneRequest),
    "GenerateImages": Workflow(run=generate_images, spec=GenerateRequest),
}
