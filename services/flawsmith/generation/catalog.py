"""Base models: the catalog of those that are known, and those installed in the object store.

An installed model is a manifest of its files under the manifest's own hash, and an event that says so; the newest
event counts. Adapters name the hash they were trained on, so that new weights under an old id meet no old adapter.
Files come first, the manifest next, the event last: what is cut off half-way installs nothing.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import Field, TypeAdapter

from flawsmith.common.errors import DataLossError, FailedPreconditionError, InvalidArgumentError, NotFoundError
from flawsmith.common.manifests import Manifest, ObjectRef
from flawsmith.common.object_store import ObjectStore, blob_key
from flawsmith.common.resources import Resources
from flawsmith.generation.layouts import INDEX, architecture_of, select_files

BUILT_IN = "mini"
"""The base model that comes with the platform, which installs it at each start (`flawsmith.prepare`)."""
_EVENTS = "installs"
_COLLECTION = "baseModels"


class CatalogEntry(Manifest):
    """A base model that is known.

    repository, revision: on the model hub, and its commit there; None where it is not from there. variant: `fp16`
    prefers those weights. hashes: sha256 of files as published, by their path; of others the hub's own list at the
    commit is believed. download_bytes: about. licence: SPDX's name where there is one. commercial_use: what the licence
    says of it. architecture: of `flawsmith.generation.layouts`. capabilities: `text-to-image`; `inpaint`, of models
    that were trained for it; `inpaint-blended`, of others, which are shown what to keep step by step.
    """

    id: str
    origin: str
    good_for: str = ""
    repository: str | None = None
    revision: str | None = None
    variant: str | None = None
    hashes: dict[str, str] = Field(default_factory=dict)
    download_bytes: int = 0
    licence: str
    licence_url: str = ""
    licence_limits: str
    commercial_use: bool
    architecture: str
    capabilities: tuple[str, ...]


class BaseModelFile(Manifest):
    """One file. path: inside the model's folder, with forward slashes."""

    path: str
    object: ObjectRef


class BaseModelManifest(Manifest):
    """An installed base model: `baseModels/{id}/revisions/{first 16 digits of the manifest's sha256}`.

    source: where these files came from, with the commit of a hub's.
    """

    entry: CatalogEntry
    source: str
    files: tuple[BaseModelFile, ...]


class BaseModelInstalled(Manifest):
    """The event that makes a manifest the model that its id means."""

    manifest: ObjectRef
    time: datetime


class FileProblem(Manifest):
    """What is wrong with a stored file."""

    path: str
    problem: str


def load_catalog() -> dict[str, CatalogEntry]:
    """The catalog's base models by id."""
    text = importlib.resources.files("flawsmith.generation").joinpath("catalog.json").read_bytes()
    entries = TypeAdapter(tuple[CatalogEntry, ...]).validate_json(text)
    return {entry.id: entry for entry in sorted(entries, key=lambda entry: entry.id)}


def known_models(resources: Resources) -> dict[str, CatalogEntry]:
    """The catalog's base models and those that operators imported under ids of their own, by id."""
    known = load_catalog()
    for model_id in resources.list_ids("", _COLLECTION):
        if model_id not in known and (ref := installed_base_model(resources, model_id)) is not None:
            known[model_id] = resources.load(ref, BaseModelManifest).entry
    return dict(sorted(known.items()))


def find_entry(resources: Resources, model_id: str) -> CatalogEntry:
    """A base model that is known. Raises InvalidArgumentError (UNKNOWN_BASE_MODEL)."""
    known = known_models(resources)
    if model_id not in known:
        raise InvalidArgumentError(
            "UNKNOWN_BASE_MODEL",
            f"no base model {model_id!r}; known are {', '.join(known)}; `flawsmith models import` adds others",
        )
    return known[model_id]


def check_licence(entry: CatalogEntry, *, allow_non_commercial: bool) -> None:
    """Raise FailedPreconditionError (NON_COMMERCIAL_LICENCE) for a model that products must not be made with, unless
    the platform's operator allows it."""
    if not entry.commercial_use and not allow_non_commercial:
        raise FailedPreconditionError(
            "NON_COMMERCIAL_LICENCE",
            f"the licence of {entry.id} ({entry.licence}: {entry.licence_limits}) allows no commercial use; take "
            "another base model, or set FLAWSMITH_ALLOW_NON_COMMERCIAL_MODELS=true where none of it becomes a product",
        )


def read_capabilities(unet_config: bytes) -> tuple[str, ...]:
    """Capabilities of a model by its UNet's configuration; empty bytes where it has no UNet. UNets of 9 input channels
    read what to keep; all others are shown it step by step."""
    trained = bool(unet_config) and json.loads(unet_config).get("in_channels") == 9
    return ("text-to-image", "inpaint" if trained else "inpaint-blended")


def check_kind(entry: CatalogEntry, architecture: str, capabilities: tuple[str, ...]) -> None:
    """Compare what files are with what an entry says. Raises FailedPreconditionError (ANOTHER_BASE_MODEL)."""
    if (architecture, capabilities) != (entry.architecture, entry.capabilities):
        raise FailedPreconditionError(
            "ANOTHER_BASE_MODEL",
            f"the files are a {architecture} model for {', '.join(capabilities)}; {entry.id} is a {entry.architecture} "
            f"one for {', '.join(entry.capabilities)}: import it under another id",
        )


def check_hashes(entry: CatalogEntry, hashes: Mapping[str, str]) -> None:
    """Compare files' sha256 by path with those that the catalog knows.

    Raises DataLossError (BASE_MODEL_CHANGED) that lists the files that differ.
    """
    different = sorted(path for path, digest in hashes.items() if entry.hashes.get(path, digest) != digest)
    if different:
        raise DataLossError(
            "BASE_MODEL_CHANGED",
            f"these files are not those of {entry.id} that the catalog knows: {', '.join(different)}; get them from "
            f"{entry.origin} at commit {entry.revision}, or import the model under an id of its own",
        )


def install_folder(resources: Resources, entry: CatalogEntry, folder: Path, *, source: str) -> ObjectRef:
    """Put a model's files into the object store and make it what its id means; returns its manifest's reference.

    Installing the same files again writes those that the store has lost or changed. Raises what `select_files`,
    `architecture_of`, `check_kind` and `check_hashes` raise.
    """
    paths = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    architecture = architecture_of(_read(folder / INDEX))
    chosen = select_files(paths, architecture, variant=entry.variant)
    hashes = {path: _digest(folder / path) for path in chosen}
    check_kind(entry, architecture, read_capabilities(_read(folder / "unet/config.json")))
    check_hashes(entry, hashes)
    files = [
        BaseModelFile(path=path, object=store_file(resources.store, folder / path, digest))
        for path, digest in hashes.items()
    ]
    return install_files(resources, entry, files, source=source)


def install_base_model(resources: Resources, model_id: str, folder: Path) -> ObjectRef:
    """Install a model of the catalog from a folder. Raises what `install_folder` raises."""
    return install_folder(resources, load_catalog()[model_id], folder, source=load_catalog()[model_id].origin)


def install_files(
    resources: Resources, entry: CatalogEntry, files: Iterable[BaseModelFile], *, source: str
) -> ObjectRef:
    """Make stored files what a model's id means; returns their manifest's reference.

    Where the id means these files already its manifest stays, for adapters know its hash: files that are pulled to
    mend imported ones, or after a release that words the catalog anew, are no other weights.
    """
    manifest = BaseModelManifest(entry=entry, source=source, files=tuple(files))
    installed = installed_base_model(resources, entry.id)
    if installed is not None:
        known = resources.load(installed, BaseModelManifest)
        if _hashes(known) == _hashes(manifest) and (known.entry == entry or entry.id in load_catalog()):
            return installed
    digest = hashlib.sha256(manifest.model_dump_json(indent=1).encode()).hexdigest()
    ref = resources.publish(f"{_COLLECTION}/{entry.id}/revisions/{digest[:16]}", manifest)
    if installed != ref:
        resources.append_event(
            f"{_COLLECTION}/{entry.id}", _EVENTS, BaseModelInstalled(manifest=ref, time=datetime.now(UTC))
        )
    return ref


def store_file(store: ObjectStore, file: Path, digest: str) -> ObjectRef:
    """Put a file into the store unless it is there, whole. digest: its sha256."""
    return stored_file(store, file.name, digest, file.stat().st_size) or store.put_file(file)


def stored_file(store: ObjectStore, path: str, digest: str, size: int) -> ObjectRef | None:
    """The reference of a file that the store has already; None where it has not, or has something else in its place,
    which is to be overwritten. Reads all of it. path: the file's name. digest: its sha256."""
    ref = ObjectRef(uri=store.uri(blob_key(digest, PurePosixPath(path).suffix)), sha256=digest, size=size)
    return ref if _hash_stored(store, ref) == (digest, size) else None


def installed_base_model(resources: Resources, model_id: str) -> ObjectRef | None:
    """The manifest that an id means now; None where it is not installed."""
    events = resources.events(f"{_COLLECTION}/{model_id}", _EVENTS, BaseModelInstalled)
    return events[-1].manifest if events else None


def require_base_model(resources: Resources, model_id: str) -> ObjectRef:
    """The manifest that an id means now.

    Raises what `find_entry` raises, and FailedPreconditionError (BASE_MODEL_NOT_INSTALLED).
    """
    entry = find_entry(resources, model_id)
    ref = installed_base_model(resources, model_id)
    if ref is None:
        raise FailedPreconditionError(
            "BASE_MODEL_NOT_INSTALLED",
            f"the weights of {model_id} ({entry.licence}: {entry.licence_limits}) are not in the object store: "
            f"{how_to_install(entry)}",
        )
    return ref


def how_to_install(entry: CatalogEntry) -> str:
    """What puts a model's files into the object store, and back where one of them was lost or changed."""
    if entry.id == BUILT_IN:
        return "`python -m flawsmith.prepare`, or a new start of the platform, puts them there"
    import_it = f"`flawsmith models import FOLDER --id {entry.id}`"
    if entry.repository is None:
        return f"{import_it}, with its licence as before, takes them from a folder"
    return (
        f"`flawsmith models pull {entry.id}` fetches them; without a way to the hub, {import_it} takes them from a "
        "folder"
    )


def require_base_of_adapter(resources: Resources, model_id: str, manifest_sha256: str, adapter: str) -> None:
    """Check that an adapter's base model is what its id means now.

    Raises what `require_base_model` raises, and FailedPreconditionError (ADAPTER_BASE_MISMATCH).
    """
    installed = require_base_model(resources, model_id)
    if installed.sha256 != manifest_sha256:
        raise FailedPreconditionError(
            "ADAPTER_BASE_MISMATCH",
            f"{adapter} was made for other weights of {model_id} ({manifest_sha256[:16]}...) than are installed now "
            f"({installed.sha256[:16]}...); fine-tune an adapter on these",
        )


def download_base_model(resources: Resources, ref: ObjectRef, cache: Path) -> Path:
    """Put a model's files into `cache/<manifest sha256>`, each compared with its hash, and return that folder.

    Files that are there with the right hash are kept. Raises what `ObjectStore.get_file` raises, and of a file that the
    store has lost or changed DataLossError (BASE_MODEL_DAMAGED).
    """
    manifest = resources.load(ref, BaseModelManifest)
    folder = cache / ref.sha256
    for file in manifest.files:
        path = folder / file.path
        if path.is_file() and _digest(path) == file.object.sha256:
            continue
        partial = path.with_name(f"{path.name}.partial")
        try:
            resources.store.get_file(file.object, partial).replace(path)
        except (DataLossError, NotFoundError) as error:
            raise DataLossError(
                "BASE_MODEL_DAMAGED",
                f"the object store has lost or changed {file.path} of {manifest.entry.id}; install the files again: "
                f"{how_to_install(manifest.entry)}",
            ) from error
    return folder


def verify_file(store: ObjectStore, file: BaseModelFile, entry: CatalogEntry) -> FileProblem | None:
    """Hash a stored file of a model again; None if it is what its manifest says."""
    found = _hash_stored(store, file.object)
    if found == (file.object.sha256, file.object.size):
        return None
    if found is None:
        problem = "is missing"
    else:
        problem = f"is not what was installed: {found[1]:,} bytes, sha256 {found[0]}, not {file.object.sha256}"
    return FileProblem(path=file.path, problem=f"{problem}; install the files again: {how_to_install(entry)}")


def describe_base_model(resources: Resources, entry: CatalogEntry) -> dict[str, Any]:
    """An entry with whether, and as which manifest, it is installed: JSON values of the API's BaseModel."""
    values = entry.model_dump(mode="json")
    ref = installed_base_model(resources, entry.id)
    if ref is None:
        return {**values, "installed": False}
    manifest = resources.load(ref, BaseModelManifest)
    return {
        **values, "installed": True, "sha256": ref.sha256, "source": manifest.source,
        "stored_bytes": sum(file.object.size for file in manifest.files),
    }  # fmt: skip


def describe_models(resources: Resources) -> list[dict[str, Any]]:
    """Every base model that is known, in order of their ids."""
    return [describe_base_model(resources, entry) for entry in known_models(resources).values()]


def _hashes(manifest: BaseModelManifest) -> dict[str, str]:
    return {file.path: file.object.sha256 for file in manifest.files}


def _hash_stored(store: ObjectStore, ref: ObjectRef) -> tuple[str, int] | None:
    """sha256 and bytes of what lies where a reference points; None where nothing does."""
    digest, size = hashlib.sha256(), 0
    try:
        for piece in store.read_pieces(store.key(ref.uri)):
            digest.update(piece)
            size += len(piece)
    except NotFoundError:
        return None
    return digest.hexdigest(), size


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
