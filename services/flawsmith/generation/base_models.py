"""The durable work of getting base models: from the hub, from uploaded files, and looking at them again."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flawsmith.common.child import run_child
from flawsmith.common.errors import FlawsmithError, NotFoundError
from flawsmith.common.jobs import Job, JobCancelledError
from flawsmith.common.manifests import ObjectRef
from flawsmith.common.settings import HubSettings
from flawsmith.generation.catalog import (
    BaseModelFile,
    BaseModelManifest,
    CatalogEntry,
    check_hashes,
    check_kind,
    describe_base_model,
    install_files,
    read_capabilities,
    require_base_model,
    stored_file,
    verify_file,
)
from flawsmith.generation.hub import HubDownload, HubFile, HubListing, list_repository
from flawsmith.generation.layouts import INDEX, architecture_of, check_weights, select_files
from flawsmith.generation.model_requests import (
    ImportModelRequest,
    PullRequest,
    VerifyRequest,
    check_import,
    check_pull,
    forget_uploads,
    uploaded_folder,
)
from flawsmith.generation.serving import publish_triton_model

_MB = 10**6
_PART = re.compile(r"(?P<path>.+)\.part-(?P<number>\d{4})")


async def pull_base_model(job: Job, request: PullRequest) -> dict[str, Any]:
    """List, download what the store lacks in a child process, install last."""
    resources = job.platform.resources
    allowed = job.settings.allow_non_commercial_models
    hub = job.settings.hub

    async def look() -> dict[str, Any]:
        entry = await asyncio.to_thread(check_pull, resources, request, allow_non_commercial=allowed)
        listing = await asyncio.to_thread(
            list_repository, str(entry.repository), entry.revision, endpoint=hub.endpoint, token=_token(hub)
        )
        names = select_files([file.path for file in listing.files], entry.architecture, variant=entry.variant)
        chosen = tuple(file for file in listing.files if file.path in names)
        check_hashes(entry, {file.path: file.sha256 for file in chosen if file.sha256})
        return {
            "entry": entry.model_dump(mode="json"),
            "listing": listing.model_copy(update={"files": chosen}).model_dump(mode="json"),
        }

    async def fetch() -> list[dict[str, Any]]:
        async with job.folder() as folder:
            files = await _fetch(job, listing, folder)
        return [file.model_dump(mode="json") for file in files]

    await job.progress("list", 0, 1)
    plan = await job.step("list", look)
    entry, listing = CatalogEntry.model_validate(plan["entry"]), HubListing.model_validate(plan["listing"])
    files = [BaseModelFile.model_validate(file) for file in await job.step("download", fetch)]
    return await _install(job, entry, files, f"{entry.origin} at commit {listing.commit}")


async def import_base_model(job: Job, request: ImportModelRequest) -> dict[str, Any]:
    """Check every uploaded file and store it, install last, forget the uploads: of an import that fails as well."""

    async def forget() -> None:
        await asyncio.to_thread(forget_uploads, job.platform.store, request.prefix)

    try:
        result = await _check_and_store(job, request)
    except (FlawsmithError, JobCancelledError):
        # Not for every exception: one that says that another worker goes on with this job must leave it its files.
        with contextlib.suppress(FlawsmithError):  # why it failed is what to tell
            await forget()
        raise
    await job.step("forget", forget)
    return result


async def _check_and_store(job: Job, request: ImportModelRequest) -> dict[str, Any]:
    store = job.platform.store
    folder_key = uploaded_folder(store, request.prefix)

    def look() -> dict[str, Any]:
        entry = check_import(request, allow_non_commercial=job.settings.allow_non_commercial_models)
        uploads = _uploads([key.removeprefix(folder_key) for key in store.list_keys(folder_key)])
        if not uploads:
            raise NotFoundError("NOTHING_UPLOADED", f"there is nothing at {request.prefix}; upload the model first")

        def read(path: str) -> bytes:
            return store.get_key(folder_key + uploads[path][0]) if path in uploads else b""

        architecture = architecture_of(read(INDEX))
        chosen = select_files(uploads, architecture, variant=entry.variant)
        capabilities = read_capabilities(read("unet/config.json"))
        if not entry.architecture:
            entry = entry.model_copy(update={"architecture": architecture, "capabilities": capabilities})
        check_kind(entry, architecture, capabilities)
        return {"entry": entry.model_dump(mode="json"), "files": {path: uploads[path] for path in chosen}}

    async def keep(path: str, parts: list[str]) -> dict[str, Any]:
        async with job.folder() as folder:
            file = folder / Path(path).name
            digest = await asyncio.to_thread(_join, job, [folder_key + part for part in parts], file)
            check_hashes(entry, {path: digest})
            if file.suffix == ".safetensors":
                await asyncio.to_thread(check_weights, file)
            ref = await asyncio.to_thread(store.put_file, file)
        return BaseModelFile(path=path, object=ref).model_dump(mode="json")

    async def look_all() -> dict[str, Any]:
        return await asyncio.to_thread(look)

    plan = await job.step("check", look_all)
    entry, files = CatalogEntry.model_validate(plan["entry"]), []
    for done, (path, parts) in enumerate(plan["files"].items()):
        await job.progress("store", done, len(plan["files"]))
        files.append(BaseModelFile.model_validate(await job.step("store", keep, path, parts)))
    return await _install(job, entry, files, request.origin or f"imported by {job.principal}")


async def verify_base_model(job: Job, request: VerifyRequest) -> dict[str, Any]:
    """Hash every stored file again."""
    store, resources = job.platform.store, job.platform.resources

    async def look() -> dict[str, Any]:
        ref = await asyncio.to_thread(require_base_model, resources, request.id)
        return ref.model_dump(mode="json")

    async def verify() -> list[dict[str, Any]]:
        problems, done = [], 0
        for file in manifest.files:
            await job.progress("verify (MB)", done // _MB, total // _MB)
            problem = await asyncio.to_thread(verify_file, store, file, manifest.entry)
            if problem is not None:
                problems.append(problem.model_dump())
            done += file.object.size
        return problems

    ref = ObjectRef.model_validate(await job.step("look", look))
    manifest = await asyncio.to_thread(resources.load, ref, BaseModelManifest)
    total = sum(file.object.size for file in manifest.files)
    return {
        "id": request.id, "sha256": ref.sha256, "file_count": len(manifest.files), "bytes": total,
        "problems": await job.step("verify", verify),
    }  # fmt: skip


async def _fetch(job: Job, listing: HubListing, folder: Path) -> list[BaseModelFile]:
    """Files of a listing in the store: what it has not yet, or no longer whole, is downloaded, a file after the
    other."""
    store, hub = job.platform.store, job.settings.hub
    found: dict[str, ObjectRef] = {}
    known, looked = [file for file in listing.files if file.sha256], 0
    for file in known:
        await job.progress("look (MB)", looked // _MB, sum(file.size for file in known) // _MB)
        ref = await asyncio.to_thread(stored_file, store, file.path, str(file.sha256), file.size)
        if ref is not None:
            found[file.path] = ref
        looked += file.size
    lacking = [file for file in listing.files if file.path not in found]

    async def on_event(event: dict[str, Any]) -> None:
        path = folder / event["path"]
        found[event["path"]] = await asyncio.to_thread(store.put_file, path)
        await asyncio.to_thread(path.unlink)

    downloading = run_child(
        "flawsmith.generation.hub",
        HubDownload(
            listing=listing.model_copy(update={"files": tuple(lacking)}),
            folder=folder,
            endpoint=hub.endpoint,
            token=_token(hub),
        ),
        on_event=on_event,
        # The library's cache goes with the folder.
        environment={"HF_HOME": str(folder / ".hub"), "HF_HUB_DISABLE_TELEMETRY": "1"},
    )
    watching = asyncio.create_task(_watch(job, listing.files, found, folder))
    try:
        await downloading
    finally:
        watching.cancel()
    return [BaseModelFile(path=file.path, object=found[file.path]) for file in listing.files]


async def _watch(job: Job, files: tuple[HubFile, ...], found: Mapping[str, ObjectRef], folder: Path) -> None:
    """Say every second how much is there."""
    total = sum(file.size for file in files)

    def size() -> int:
        partial = 0
        for path in folder.rglob("*"):
            try:
                partial += path.stat().st_size if path.is_file() else 0
            except FileNotFoundError:  # moved meanwhile
                continue
        return min(total, sum(ref.size for ref in found.values()) + partial)

    while True:
        await job.progress("download (MB)", await asyncio.to_thread(size) // _MB, total // _MB)
        await asyncio.sleep(1.0)


async def _install(job: Job, entry: CatalogEntry, files: list[BaseModelFile], source: str) -> dict[str, Any]:
    """Publish the manifest, then have Triton draw with the model."""
    resources, repository = job.platform.resources, job.settings.triton.repository

    def install() -> dict[str, Any]:
        ref = install_files(resources, entry, files, source=source)
        publish_triton_model(resources.store, repository, entry.id, ref.sha256)
        return describe_base_model(resources, entry)

    async def publish() -> dict[str, Any]:
        return await asyncio.to_thread(install)

    result: dict[str, Any] = await job.step("publish", publish)
    return result


def _uploads(keys: list[str]) -> dict[str, list[str]]:
    """Uploaded files by their path, each as the parts that it was cut into, in order."""
    uploads: dict[str, list[str]] = {}
    for key in sorted(keys):
        match = _PART.fullmatch(key)
        uploads.setdefault(match["path"] if match else key, []).append(key)
    return uploads


def _join(job: Job, keys: list[str], file: Path) -> str:
    """Put parts together as a file; returns its sha256."""
    digest = hashlib.sha256()
    with file.open("wb") as stream:
        for key in keys:
            for piece in job.platform.store.read_pieces(key):
                digest.update(piece)
                stream.write(piece)
    return digest.hexdigest()


def _token(hub: HubSettings) -> str | None:
    return hub.token.get_secret_value() if hub.token else None
