"""Downloading from a hub, over HTTP, with the real client library."""

from __future__ import annotations

import asyncio
import hashlib
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flawsmith.common.child import run_child
from flawsmith.common.errors import DataLossError, FailedPreconditionError, FlawsmithError, ResourceExhaustedError
from flawsmith.generation.hub import HubDownload, list_repository
from flawsmith.generation.layouts import select_files
from flawsmith.local.processes import free_port
from tests.unit.generation.hub_server import HubServer, Published
from tests.unit.generation.tiny_pipelines import write_tiny_pipeline

REPOSITORY, COMMIT = "someone/tiny", "c0ffee" + "0" * 34


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tiny_pipeline("sd15", tmp_path_factory.mktemp("hub"))
    (folder / "unet/diffusion_pytorch_model.bin").write_bytes(b"a pickle" * 1000)
    (folder / "LICENSE.md").write_text("be nice")
    return folder


@pytest.fixture
def hub(published: Path) -> Iterator[HubServer]:
    with HubServer({REPOSITORY: Published(COMMIT, published)}) as server:
        yield server


def download(job: HubDownload) -> dict[str, str]:
    """Run the child process; returns the sha256 of each file by its path."""
    files: dict[str, str] = {}

    async def keep(event: dict[str, Any]) -> None:
        files[event["path"]] = event["sha256"]

    # No token of whoever runs the tests, no cache of theirs.
    environment = {"HF_HOME": str(job.folder / ".hub"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    asyncio.run(run_child("flawsmith.generation.hub", job, on_event=keep, environment=environment))
    return files


def error_of(job: HubDownload) -> FlawsmithError:
    with pytest.raises(FlawsmithError) as caught:
        download(job)
    return caught.value


def test_files_come_whole_and_compared_with_the_hubs_hashes(hub: HubServer, published: Path, tmp_path: Path) -> None:
    listing = list_repository(REPOSITORY, None, endpoint=hub.endpoint)
    assert listing.commit == COMMIT
    assert list_repository(REPOSITORY, COMMIT, endpoint=hub.endpoint) == listing
    chosen = select_files([file.path for file in listing.files], "stable-diffusion")
    assert {"LICENSE.md", "model_index.json", "unet/diffusion_pytorch_model.safetensors"} < set(chosen)
    assert not any(path.endswith(".bin") for path in chosen)
    files = tuple(file for file in listing.files if file.path in chosen)
    assert {file.sha256 is None for file in files} == {True, False}
    job = HubDownload(
        listing=listing.model_copy(update={"files": files}), folder=tmp_path, endpoint=hub.endpoint, token=None
    )
    found = download(job)
    assert set(found) == set(chosen)
    for path, digest in found.items():
        data = (tmp_path / path).read_bytes()
        assert data == (published / path).read_bytes()
        assert digest == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("path", ["unet/config.json", "unet/diffusion_pytorch_model.safetensors"])
def test_files_that_are_not_what_the_hub_lists_are_refused(hub: HubServer, tmp_path: Path, path: str) -> None:
    listing = list_repository(REPOSITORY, None, endpoint=hub.endpoint)
    file = next(file for file in listing.files if file.path == path)
    hub.replaced[path] = b"x" * file.size
    job = HubDownload(
        listing=listing.model_copy(update={"files": (file,)}), folder=tmp_path, endpoint=hub.endpoint, token=None
    )
    error = error_of(job)
    assert (type(error), error.reason) == (DataLossError, "HUB_FILE_CHANGED")
    assert path in error.message


def test_a_full_disk_is_not_taken_for_a_hub_that_does_not_answer(hub: HubServer, tmp_path: Path) -> None:
    listing = list_repository(REPOSITORY, None, endpoint=hub.endpoint)
    file = next(file for file in listing.files if file.path == "unet/diffusion_pytorch_model.safetensors")
    job = HubDownload(
        listing=listing.model_copy(update={"files": (file,)}), folder=tmp_path, endpoint=hub.endpoint, token=None
    )
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.size // 2, limits[1]))
    try:
        error = error_of(job)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (type(error), error.reason) == (ResourceExhaustedError, "DISK_FULL")


def test_a_hub_that_nobody_reaches_says_how_to_go_on() -> None:
    with pytest.raises(FailedPreconditionError, match="flawsmith models import FOLDER") as caught:
        list_repository(REPOSITORY, None, endpoint=f"http://127.0.0.1:{free_port()}")
    assert caught.value.reason == "HUB_UNREACHABLE"


def test_repositories_and_commits_that_are_gone_are_said(hub: HubServer) -> None:
    for repository, revision in ((REPOSITORY, "f" * 40), ("someone/else", None)):
        with pytest.raises(FailedPreconditionError, match=repository) as caught:
            list_repository(repository, revision, endpoint=hub.endpoint)
        assert caught.value.reason == "HUB_MODEL_MISSING"


def test_gated_models_want_a_token(published: Path) -> None:
    with HubServer({REPOSITORY: Published(COMMIT, published)}, token="hf_secret") as server:
        with pytest.raises(FailedPreconditionError, match="FLAWSMITH_HUB__TOKEN") as caught:
            list_repository(REPOSITORY, None, endpoint=server.endpoint, token="hf_other")
        assert caught.value.reason == "HUB_DENIED"
        assert list_repository(REPOSITORY, None, endpoint=server.endpoint, token="hf_secret").commit == COMMIT
