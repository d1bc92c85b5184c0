"""What callers ask for about base models, and the checks that come before anything is queued."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from flawsmith.common.errors import FailedPreconditionError, InvalidArgumentError
from flawsmith.common.resources import Resources, check_name
from flawsmith.generation.catalog import CatalogEntry, check_licence, find_entry, load_catalog


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
            f"{entry.id} does not come from the hub but from {entry.origin}; `flawsmith models import FOLDER --id "
            f"{entry.id}` installs it",
        )
    check_licence(entry, allow_non_commercial=allow_non_commercial)
    return entry


def check_import(request: ImportModelRequest, *, allow_non_commercial: bool) -> CatalogEntry:
    """The entry of the model to import; architecture and capabilities of one with an id of its own are to be found.

    Raises InvalidArgumentError (INVALID_NAME, LICENCE_OF_CATALOG_MODEL, LICENCE_MISSING) and what `check_licence`
    raises.
    """
    check_name(f"baseModels/{request.id}", "baseModels/{id}", "id")
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
