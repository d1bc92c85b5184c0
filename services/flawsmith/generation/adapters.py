"""Adapters from elsewhere, and for elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from flawsmith.common.child import run_child
from flawsmith.common.errors import NotFoundError
from flawsmith.common.jobs import Job
from flawsmith.common.manifests import AdapterManifest, Manifest, ObjectRef, Regime
from flawsmith.common.object_store import ObjectStore
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


class FolderFile(Manifest):
    """One file of an adapter in peft's format. path: inside its folder, with forward slashes."""

    path: str = Field(pattern=r"^([a-z0-9_]{1,40}/)?adapter_(config\.json|model\.safetensors)$")
    object: ObjectRef


class AdapterFolder(Manifest):
    """An adapter in peft's format: the listing that is kept of one that was imported."""

    files: tuple[FolderFile, ...]


class ImportAdapterRequest(BaseModel):
    """ImportAdapter: fields as in the proto; name: of the adapter to make."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    parent: str
    base_model: str = "mini"
    file: ObjectRef | None = None
    files: tuple[FolderFile, ...] = Field(default=(), max_length=16)
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

    @model_validator(mode="after")
    def _file_or_folder(self) -> Self:
        if (self.file is None) == (not self.files):
            raise ValueError("give either file, or files where the adapter is a folder of peft's")
        if len({file.path for file in self.files}) != len(self.files):
            raise ValueError("files: each path may be given once")
        return self

    @property
    def source(self) -> ObjectRef | tuple[FolderFile, ...]:
        """The file, or the folder's files."""
        return self.file or self.files


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
    for ref in [request.file] if request.file else [file.object for file in request.files]:
        if not resources.store.exists(resources.store.key(ref.uri)):
            raise NotFoundError("OBJECT_NOT_FOUND", f"file: {ref.uri} does not exist; upload it first")
    return base_model


def check_adapter_export(resources: Resources, request: ExportAdapterRequest) -> AdapterManifest:
    """The adapter. Raises InvalidArgumentError (INVALID_NAME), NotFoundError (RESOURCE_NOT_FOUND)."""
    check_name(request.name, ADAPTER, "name")
    manifest, _ = resources.get(request.name, AdapterManifest)
    return manifest


async def import_adapter(job: Job, request: ImportAdapterRequest) -> dict[str, Any]:
    """Compare its layers with the base model's, keep it as the format that drawing reads, publish last."""
    resources = job.platform.resources

    async def prepare() -> dict[str, Any]:
        return (await asyncio.to_thread(check_adapter_import, resources, request)).model_dump(mode="json")

    async def convert() -> dict[str, Any]:
        result = await _convert(job, base_model, request.source, AdapterFormat.KOHYA)
        origin = await asyncio.to_thread(_origin, job.platform.store, request)
        return {**result, "imported_from": origin.model_dump(mode="json")}

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
        imported_from=ObjectRef.model_validate(converted["imported_from"]),
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
            return {"file": manifest.weights.model_dump(mode="json")}
        # The weights that it was made for, whichever are installed now.
        revision = f"baseModels/{manifest.base_model}/revisions/{manifest.base_model_sha256[:16]}"
        _, base_model = await asyncio.to_thread(resources.get, revision, BaseModelManifest)
        return await _convert(job, base_model, manifest.weights, request.format)

    converted = await job.step("convert", convert)
    made = {name: converted[name] for name in ("file", "files") if name in converted}
    return {"adapter": request.name, "format": request.format.value, **made}


def _origin(store: ObjectStore, request: ImportAdapterRequest) -> ObjectRef:
    """What an adapter was imported from: the file, or a listing of the folder's files."""
    if request.file is not None:
        return request.file
    return store.put_blob(AdapterFolder(files=request.files).model_dump_json().encode(), ".json")


async def _convert(
    job: Job, base_model: ObjectRef, source: ObjectRef | Sequence[FolderFile], to: AdapterFormat
) -> dict[str, Any]:
    """What `convert_adapter.run` returns, and where the new `file` is stored, or the `files` of a folder."""
    store = job.platform.store
    async with job.folder() as folder:

        def fetch() -> Path:
            if isinstance(source, ObjectRef):
                return store.get_file(source, folder / "source.safetensors")
            for file in source:
                store.get_file(file.object, folder / "source" / file.path)
            return folder / "source"

        def download() -> ConvertRun:
            return ConvertRun(
                base_model=download_base_model(
                    job.platform.resources, base_model, job.settings.state_dir / "base-models"
                ),
                base_model_sha256=base_model.sha256,
                source=fetch(),
                target=folder / ("target" if to is AdapterFormat.PEFT else "target.safetensors"),
                format=to,
            )

        async def on_event(event: dict[str, Any]) -> None:
            await job.progress("convert", event["step"], event["total"])

        await job.progress("convert", 0, 1)
        run = await asyncio.to_thread(download)
        result = await run_child("flawsmith.generation.convert_adapter", run, on_event=on_event)

        def keep() -> dict[str, Any]:
            if run.target.is_file():
                return {"file": store.put_file(run.target).model_dump(mode="json")}
            paths = sorted(path for path in run.target.rglob("*") if path.is_file())
            names = [path.relative_to(run.target).as_posix() for path in paths]
            files = [
                FolderFile(path=name, object=store.put_file(path)) for name, path in zip(names, paths, strict=True)
            ]
            return {"files": [file.model_dump(mode="json") for file in files]}

        return {**result, **await asyncio.to_thread(keep)}
