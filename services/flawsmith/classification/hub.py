"""Weights of the Hugging Face hub, fetched because a request names them; no recipe does it by itself."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from flawsmith.common.errors import NotFoundError, UnavailableError

WEIGHTS_FILE = "model.safetensors"


def fetch_weights(model: str, folder: Path, endpoint: str | None = None) -> Path:
    """Download a model's safetensors file into `folder`. model: `owner/name@commit`. endpoint: of a mirror.

    Raises NotFoundError HUB_MODEL_NOT_FOUND, UnavailableError HUB_UNREACHABLE.
    """
    repository, _, commit = model.partition("@")
    try:
        return Path(
            hf_hub_download(
                repository,
                WEIGHTS_FILE,
                revision=commit,
                local_dir=folder,
                endpoint=endpoint or constants.ENDPOINT,
            )
        )
    except LocalEntryNotFoundError as error:  # the hub was not reached, and nothing is here
        raise _unreachable(model) from error
    except (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError) as error:
        raise NotFoundError(
            "HUB_MODEL_NOT_FOUND",
            f"the hub has no {model} with a file {WEIGHTS_FILE} that is open to this worker; check its name and "
            "commit, or store the file and give it as initial_weights",
        ) from error
    except OSError as error:
        raise _unreachable(model) from error


def _unreachable(model: str) -> UnavailableError:
    return UnavailableError(
        "HUB_UNREACHABLE",
        f"the hub does not answer for {model}; try again, or store the file and give it as initial_weights",
    )
