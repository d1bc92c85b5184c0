"""Adapters from elsewhere, and for elsewhere."""

from __future__ import annotations

import asyncio
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from flawsmith.common.child import run_child
from flawsmith.common.errors import NotFoundError
from flawsmith.common.jobs import Job
from flawsmith.common.manifests import AdapterManifest, ObjectRef, Regime
from flawsmith.common.resources import Resources, check_name, describe
from flawsmith.generation.catalog import BaseModelManifest, download_base_model, require_base_model
from flawsmith.generation.spec import (
    CLASS_PROMPT,
    INSTANCE_PROMPT,
    MAX_SIDE,
    MIN_SIDE,
    AdapterFormat,
    ConvertRun,
)

ADAPTER = "products/{product}/adapters/{adapter}"


class ImportAdapterRequest(BaseModel):
    """ImportAdapter: fields as in the proto; name: of the adapter to make."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    parent: str
    base_model: str = "mini"
    file: ObjectRef
    regime: Regime
    alpha: float = Field(default=1.0, ge=0.0, le=1.0)
    instance_prompt: str = Field(default=INSTANCE_PROMPT, min_length=1, max_length=1000)
    class_prompt: str = Field(default=CLASS_PROMPT, min_length=1, max_length=1000)
    clip_skip: int = Field(default=1, ge=1, le=12)
    height: int | None = Field(default=None, ge=MIN_SIDE, le=MAX_SIDE)
    width: int | None = Field(default=None, ge=MIN_SIDE, le=MAX_SIDE)

    @model_validator(mode="after")
    def _both_sides(self) -> Self:
        if (self.height is None) != (self.width is None):
            raise ValueError("give both height and width, or neither")
        return self


class ExportAdapterRequest(BaseModel):
    """ExportAdapter: fields as in the proto."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    format: AdapterFormat = AdapterFormat.KOHYA


def check_adapter_import(resources: Resources, request: ImportAdapterRequest) -> ObjectRef:
    """The base model's manifest.

    Raises what `require_base_model` raises, and NotFoundError (OBJECT_NOT_FOUND) for a file that is not there.
    """
    base_model = require_base_model(resources, request.base_model)
    if not resources.store.exists(resources.store.key(request.file.uri)):
        raise NotFoundError("OBJECT_NOT_FOUND", f"file: {request.file.uri} does not exist; upload it first")
    return base_model


def check_adapter_export(resources: Resources, request: ExportAdapterRequest) -> AdapterManifest:
    """The adapter. Raises InvalidArgumentError (INVALID_NAME), NotFoundError (RESOURCE_NOT_FOUND)."""
    check_name(request.name, ADAPTER, "name")
    manifest, _ = resources.get(request.name, AdapterManifest)
    return manifest


async def import_adapter(job: Job, request: ImportAdapterRequest) -> dict[str, Any]:
    """Compare the file's layers with the base model's, keep it as the format that drawing reads, publish last."""
    resources = job.platform.resources

    async def prepare() -> dict[str, Any]:
        return (await asyncio.to_thread(check_adapter_import, resources, request)).model_dump(mode="json")

    async def convert() -> dict[str, Any]:
        return await _convert(job, base_model, request.file, AdapterFormat.KOHYA)

    base_model = ObjectRef.model_validate(await job.step("prepare", prepare))
    converted = await job.step("convert", convert)
    manifest = AdapterManifest(
        name=request.name,
        product=request.parent,
        base_model=request.base_model,
        base_model_sha256=base_model.sha256,
        regime=request.regime,
        algorithm=converted["algorithm"],
        rank=converted["rank"],
        weights=ObjectRef.model_validate(converted["file"]),
        alpha=request.alpha,
        instance_prompt=request.instance_prompt,
        class_prompt=request.class_prompt,
        training_images=(),
        steps=0,
        epochs=0,
        imported_from=request.file,
        parameters={
            "clip_skip": request.clip_skip,
            "height": request.height or converted["side"],
            "width": request.width or converted["side"],
        },
        create_time=await job.now(),
    )

    async def publish() -> dict[str, Any]:
        return describe(manifest, await asyncio.to_thread(resources.publish, request.name, manifest))

    result: dict[str, Any] = await job.step("publish", publish)
    return result


async def export_adapter(job: Job, request: ExportAdapterRequest) -> dict[str, Any]:
    """Write an adapter in another format; its own is stored already."""
    resources = job.platform.resources

    async def convert() -> dict[str, Any]:
        manifest = await asyncio.to_thread(check_adapter_export, resources, request)
        if request.format is AdapterFormat.KOHYA:
            return manifest.weights.model_dump(mode="json")
        # The weights that it was made for, whichever are installed now.
        revision = f"baseModels/{manifest.base_model}/revisions/{manifest.base_model_sha256[:16]}"
        _, base_model = await asyncio.to_thread(resources.get, revision, BaseModelManifest)
        converted = await _convert(job, base_model, manifest.weights, request.format)
        return dict(converted["file"])

    file = await job.step("convert", convert)
    return {"adapter": request.name, "format": request.format.value, "file": file}


async def _convert(job: Job, base_model: ObjectRef, file: ObjectRef, to: AdapterFormat) -> dict[str, Any]:
    """What `convert_adapter.run` returns, and where the new `file` is stored."""
    store = job.platform.store
    async with job.folder() as folder:

        def download() -> ConvertRun:
            return ConvertRun(
                base_model=download_base_model(
                    job.platform.resources, base_model, job.settings.state_dir / "base-models"
                ),
                base_model_sha256=base_model.sha256,
                source=store.get_file(file, folder / "source.safetensors"),
                target=folder / "target.safetensors",
                format=to,
            )

        async def on_event(event: dict[str, Any]) -> None:
            await job.progress("convert", event["step"], event["total"])

        await job.progress("convert", 0, 1)
        run = await asyncio.to_thread(download)
        result = await run_child("flawsmith.generation.convert_adapter", run, on_event=on_event)
        stored = await asyncio.to_thread(store.put_file, run.target)
        return {**result, "file": stored.model_dump(mode="json")}
