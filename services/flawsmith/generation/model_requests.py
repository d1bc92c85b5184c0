"""What callers ask for about base models, and the checks that come before anything is queued."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict, Field

from flawsmith.common.errors import FailedPreconditionError, FieldViolation, InvalidArgumentError
from flawsmith.common.object_store import ObjectStore
from flawsmith.common.resources import Resources, check_name
from flawsmith.generation.catalog import BUILT_IN, CatalogEntry, check_licence, find_entry, how_to_install, load_catalog


class PullRequest(BaseModel):
    """PullBaseModel: fields as in the proto."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str


class ImportModelRequest(BaseModel):
    """ImportBaseModel: fields as in the proto."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    prefix: str
    licence: str = Field(default="", max_length=200)
    licence_url: str = Field(default="", max_length=1000)
    licence_limits: str = Field(default="", max_length=1000)
    commercial_use: bool = False
    origin: str = Field(default="", max_length=1000)


class VerifyRequest(BaseModel):
    """VerifyBaseModel: fields as in the proto."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str


def check_pull(resources: Resources, request: PullRequest, *, allow_non_commercial: bool) -> CatalogEntry:
    """The model to fetch. Raises what `find_entry` and `check_licence` raise, and FailedPreconditionError
    (NOT_ON_THE_HUB)."""
    entry = find_entry(resources, request.id)
    if entry.repository is None:
        raise FailedPreconditionError(
            "NOT_ON_THE_HUB",
            f"{entry.id} does not come from the hub but from {entry.origin}: {how_to_install(entry)}",
        )
    check_licence(entry, allow_non_commercial=allow_non_commercial)
    return entry


def check_import(request: ImportModelRequest, *, allow_non_commercial: bool) -> CatalogEntry:
    """The entry of the model to import; architecture and capabilities of one with an id of its own are to be found.

    Raises InvalidArgumentError (INVALID_NAME, BUILT_IN_MODEL, LICENCE_OF_CATALOG_MODEL, LICENCE_MISSING) and what
    `check_licence` raises.
    """
    check_name(f"baseModels/{request.id}", "baseModels/{id}", "id")
    if request.id == BUILT_IN:
        # The next start would take the id back, and with it every adapter of the imported weights.
        raise InvalidArgumentError(
            "BUILT_IN_MODEL",
            f"{BUILT_IN} comes with the platform, which installs its own weights at each start; import these under an "
            "id of their own",
            fields=[FieldViolation("id", "is the built-in model's")],
        )
    known = load_catalog().get(request.id)
    if known is not None and request.licence not in ("", known.licence):
        raise InvalidArgumentError(
            "LICENCE_OF_CATALOG_MODEL",
            f"{known.id} is a model of the catalog, under {known.licence}; import a model under another licence with "
            "an id of its own",
        )
    if known is None and not request.licence:
        raise InvalidArgumentError(
            "LICENCE_MISSING",
            f"{request.id} is not in the catalog: name its licence (--licence), what it limits (--licence-limits), and "
            "whether it lets products be made with it (--commercial-use)",
        )
    entry = known or CatalogEntry(
        id=request.id,
        origin=request.origin or "imported",
        licence=request.licence,
        licence_url=request.licence_url,
        licence_limits=request.licence_limits or "see the licence's text",
        commercial_use=request.commercial_use,
        architecture="",
        capabilities=(),
    )
    check_licence(entry, allow_non_commercial=allow_non_commercial)
    return entry


def uploaded_folder(store: ObjectStore, prefix: str) -> str:
    """Key of the folder that a model was uploaded to, with a slash at its end. Raises InvalidArgumentError
    (FOREIGN_URI)."""
    return store.key(prefix).rstrip("/") + "/"


def forget_uploads(store: ObjectStore, prefix: str) -> None:
    """Delete what was uploaded for an import, once it was stored or refused.

    What is no upload, or everybody's, was not uploaded for it, and stays. Raises what the store raises.
    """
    folder = uploaded_folder(store, prefix)
    if re.match("uploads/[^/]+/", folder):
        for key in list(store.list_keys(folder)):
            store.delete_key(key)
