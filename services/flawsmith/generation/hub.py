"""Base models from the model hub: what a repository holds, and its files, each compared with the hub's own hash.

Downloading is a process of its own, `python -m flawsmith.generation.hub`: a `HubDownload` on stdin, a `file` event for
each file on stdout; cancelling kills it.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import huggingface_hub
import requests
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from pydantic import BaseModel, ConfigDict

from flawsmith.common.child import child_main, is_disk_full
from flawsmith.common.errors import DataLossError, FailedPreconditionError

TIMEOUT_S = 15.0


class HubFile(BaseModel):
    """A file of a repository. path: inside it. sha256: of large files; git_sha1: of the others, git's own hash."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    size: int
    sha256: str | None
    git_sha1: str


class HubListing(BaseModel):
    """A repository at a commit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    repository: str
    commit: str
    files: tuple[HubFile, ...]


class HubDownload(BaseModel):
    """The child's whole input. endpoint, token: of the hub; the library's own settings where None."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    listing: HubListing
    folder: Path
    endpoint: str | None
    token: str | None


class Events(Protocol):
    """What `flawsmith.common.child.Reporter` offers."""

    def emit(self, event: dict[str, Any]) -> None: ...


def list_repository(
    repository: str, revision: str | None, *, endpoint: str | None = None, token: str | None = None
) -> HubListing:
    """What a repository holds at a revision, the newest where None.

    Raises FailedPreconditionError: HUB_UNREACHABLE, HUB_DENIED (it wants a token, or an agreement), HUB_MODEL_MISSING.
    """
    with _hub_errors(repository):
        info = huggingface_hub.HfApi(endpoint=endpoint, token=token).model_info(
            repository, revision=revision, files_metadata=True, timeout=TIMEOUT_S
        )
    files = tuple(
        HubFile(
            path=item.rfilename,
            size=item.size or 0,
            sha256=item.lfs.sha256 if item.lfs else None,
            git_sha1=item.blob_id or "",
        )
        for item in info.siblings or ()
    )
    return HubListing(repository=repository, commit=str(info.sha), files=files)


def run(job: HubDownload, reporter: Events) -> dict[str, Any]:
    """Download every file of the listing into the folder; a `file` event (`path`, `sha256`) follows each.

    Raises what `list_repository` raises, and DataLossError (HUB_FILE_CHANGED) for a file that is not what the hub's
    own listing says. OSError says that the disk is full.
    """
    api = huggingface_hub.HfApi(endpoint=job.endpoint, token=job.token)
    for file in job.listing.files:
        with _hub_errors(job.listing.repository):
            path = Path(
                api.hf_hub_download(
                    job.listing.repository, file.path, revision=job.listing.commit, local_dir=job.folder
                )
            )
        reporter.emit({"event": "file", "path": file.path, "sha256": _checked(file, path)})
    return {"files": len(job.listing.files)}


def _checked(file: HubFile, path: Path) -> str:
    """The file's sha256, when it is what the hub says."""
    size = path.stat().st_size
    digest, git = hashlib.sha256(), hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as stream:
        while piece := stream.read(2**20):
            digest.update(piece)
            git.update(piece)
    found, expected = (digest.hexdigest(), file.sha256) if file.sha256 is not None else (git.hexdigest(), file.git_sha1)
    if found != expected:
        raise DataLossError(
            "HUB_FILE_CHANGED", f"{file.path} came as {found}, but the hub lists {expected}; pull again"
        )
    return digest.hexdigest()


@contextlib.contextmanager
def _hub_errors(repository: str) -> Iterator[None]:
    offline = (
        "; where it cannot be reached, download the model elsewhere and bring it with `flawsmith models import FOLDER "
        "--id ID`"
    )
    try:
        yield
    except GatedRepoError as error:
        raise FailedPreconditionError(
            "HUB_DENIED",
            f"the hub wants an agreement to the terms of {repository}: accept them there, then set "
            "FLAWSMITH_HUB__TOKEN to a token of that account",
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError) as error:
        # Also the answer of a hub that cannot be reached, to whom asks for a file that is not in its cache.
        if isinstance(error, LocalEntryNotFoundError):
            raise FailedPreconditionError("HUB_UNREACHABLE", f"the model hub does not answer{offline}") from error
        raise FailedPreconditionError(
            "HUB_MODEL_MISSING",
            f"the hub has no {repository}, or not this commit of it, for callers without a token of its own{offline}",
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in (401, 403):
            raise FailedPreconditionError(
                "HUB_DENIED", f"the hub refuses {repository}; check FLAWSMITH_HUB__TOKEN"
            ) from error
        raise FailedPreconditionError("HUB_UNREACHABLE", f"the model hub answers {status}{offline}") from error
    except (requests.RequestException, OSError) as error:
        if is_disk_full(error):
            raise
        raise FailedPreconditionError("HUB_UNREACHABLE", f"the model hub does not answer{offline}") from error


if __name__ == "__main__":
    child_main(HubDownload, run)
