"""Base models: the catalog of those that are known, and those installed in the object store.

An installed model is a manifest of its files under the manifest's own hash, and an event that says so; the newest
event counts. Adapters name the hash they were trained on, so that new weights under an old id meet no old adapter.
"""

from __future__ import annotations

import hashlib
import importlib.resources
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter

from flawsmith.common.errors import FailedPreconditionError, InvalidArgumentError
from flawsmith.common.manifests import Manifest, ObjectRef
from flawsmith.common.resources import Resources

SUPPORTED_ARCHITECTURE = "stable-diffusion"
_SUFFIXES = (".json", ".txt", ".model", ".safetensors", ".md")
_EVENTS = "installs"


class CatalogEntry(Manifest):
    """A base model that is known.

    repository, revision: on the model hub; None where it is not from there, or not pinned yet. architecture: its
    module layout; this version runs `stable-diffusion`. capabilities: `text-to-image`, `inpaint`.
    """

    id: str
    origin: str
    repository: str | None
    revision: str | None
    licence: str
    licence_limits: str
    architecture: str
    capabilities: tuple[str, ...]


class BaseModelFile(Manifest):
    """One file. path: inside the model's folder, with forward slashes."""

    path: str
    object: ObjectRef


class BaseModelManifest(Manifest):
    """An installed base model: `baseModels/{id}/revisions/{first 16 digits of the manifest's sha256}`."""

    id: str
    origin: str
    revision: str | None
    licence: str
    files: tuple[BaseModelFile, ...]


class BaseModelInstalled(Manifest):
    """The event that makes a manifest the model that its id means."""

    manifest: ObjectRef
    time: datetime


def load_catalog() -> dict[str, CatalogEntry]:
    """Known base models by id."""
    text = importlib.resources.files("flawsmith.generation").joinpath("catalog.json").read_bytes()
    entries = TypeAdapter(tuple[CatalogEntry, ...]).validate_json(text)
    return {entry.id: entry for entry in sorted(entries, key=lambda entry: entry.id)}


def find_entry(model_id: str, *, runnable: bool = True) -> CatalogEntry:
    """A catalog entry. runnable: only those whose architecture this version runs.

    Raises InvalidArgumentError (UNKNOWN_BASE_MODEL), FailedPreconditionError (BASE_MODEL_UNSUPPORTED).
    """
    catalog = load_catalog()
    if model_id not in catalog:
        raise InvalidArgumentError("UNKNOWN_BASE_MODEL", f"no base model {model_id!r}; known are {', '.join(catalog)}")
    entry = catalog[model_id]
    if runnable and entry.architecture != SUPPORTED_ARCHITECTURE:
        usable = ", ".join(key for key, other in catalog.items() if other.architecture == SUPPORTED_ARCHITECTURE)
        raise FailedPreconditionError(
            "BASE_MODEL_UNSUPPORTED",
            f"this version does not run {entry.architecture} models such as {model_id}; use one of {usable}",
        )
    return entry


def list_files(folder: Path) -> dict[str, Path]:
    """A model folder's files by their path inside it, in order. Only weights in safetensors and configuration: no
    pickles, no pictures. Raises FailedPreconditionError (BASE_MODEL_INCOMPLETE)."""
    files = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix in _SUFFIXES
    }
    if "model_index.json" not in files or not any(path.startswith("unet/") for path in files):
        raise FailedPreconditionError(
            "BASE_MODEL_INCOMPLETE",
            f"{folder} is not a model in diffusers' layout (model_index.json, unet/, vae/, text_encoder/, tokenizer/, "
            "scheduler/)",
        )
    return files


def install_base_model(resources: Resources, model_id: str, folder: Path) -> ObjectRef:
    """Put a model's files into the object store and make it what its id means; returns its manifest's reference.

    Files first, the manifest next, the event last; installing the same files again writes nothing.
    Raises what `find_entry` and `list_files` raise.
    """
    entry, store = find_entry(model_id), resources.store
    files = []
    for path, file in list_files(folder).items():
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        key = f"blobs/{digest[:2]}/{digest}{file.suffix}"
        if store.exists(key):
            ref = ObjectRef(uri=store.uri(key), sha256=digest, size=file.stat().st_size)
        else:
            ref = store.put_file(file)
        files.append(BaseModelFile(path=path, object=ref))
    manifest = BaseModelManifest(
        id=model_id, origin=entry.origin, revision=entry.revision, licence=entry.licence, files=tuple(files)
    )
    digest = hashlib.sha256(manifest.model_dump_json(indent=1).encode()).hexdigest()
    ref = resources.publish(f"baseModels/{model_id}/revisions/{digest[:16]}", manifest)
    if installed_base_model(resources, model_id) != ref:
        resources.append_event(
            f"baseModels/{model_id}", _EVENTS, BaseModelInstalled(manifest=ref, time=datetime.now(UTC))
        )
    return ref


def installed_base_model(resources: Resources, model_id: str) -> ObjectRef | None:
    """The manifest that an id means now; None where it is not installed."""
    events = resources.events(f"baseModels/{model_id}", _EVENTS, BaseModelInstalled)
    return events[-1].manifest if events else None


def require_base_model(resources: Resources, model_id: str) -> ObjectRef:
    """The manifest that an id means now.

    Raises what `find_entry` raises, and FailedPreconditionError (BASE_MODEL_NOT_INSTALLED).
    """
    find_entry(model_id)
    ref = installed_base_model(resources, model_id)
    if ref is None:
        raise FailedPreconditionError(
            "BASE_MODEL_NOT_INSTALLED",
            f"the weights of {model_id} are not in the object store; install them, or use another base model",
        )
    return ref


def download_base_model(resources: Resources, ref: ObjectRef, cache: Path) -> Path:
    """Put a model's files into `cache/<manifest sha256>`, each compared with its hash, and return that folder.

    Files that are there with the right hash are kept. Raises what `ObjectStore.get` raises.
    """
    manifest = resources.load(ref, BaseModelManifest)
    folder = cache / ref.sha256
    for file in manifest.files:
        path = folder / file.path
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == file.object.sha256:
            continue
        partial = path.with_name(f"{path.name}.partial")
        resources.store.get_file(file.object, partial).replace(path)
    return folder


def describe_catalog(resources: Resources) -> list[Mapping[str, object]]:
    """Every catalog entry with whether, and as which manifest, it is installed: values of the API's BaseModel."""
    found: list[Mapping[str, object]] = []
    for entry in load_catalog().values():
        ref = installed_base_model(resources, entry.id)
        found.append({**entry.model_dump(), "installed": ref is not None, "sha256": ref.sha256 if ref else ""})
    return found
