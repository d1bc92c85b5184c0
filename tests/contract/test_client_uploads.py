"""What the client sends of a folder, and where each URL comes from."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flawsmith.assembly.v1 import assembly_pb2
from flawsmith.client import Client
from flawsmith.common.errors import FailedPreconditionError
from flawsmith.common.settings import PeerSettings
from flawsmith.generation.v1 import generation_pb2

PREFIX = "s3://b/uploads/0123456789abcdef/"
# Of the repository of Stable Diffusion 1.5, and what the catalog's model is loaded from.
NEEDED = {
    "model_index.json", "README.md", "scheduler/scheduler_config.json", "text_encoder/config.json",
    "text_encoder/model.fp16.safetensors", "tokenizer/vocab.json", "unet/config.json",
    "unet/diffusion_pytorch_model.fp16.safetensors", "vae/config.json", "vae/diffusion_pytorch_model.fp16.safetensors",
}  # fmt: skip
OTHERS = {
    "text_encoder/model.safetensors", "unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.non_ema.safetensors", "vae/diffusion_pytorch_model.safetensors",
    "safety_checker/model.fp16.safetensors", "v1-5-pruned.safetensors",
}  # fmt: skip


class Services:
    """Signs and takes uploads. signed: names by the call that asked for them. put: bytes by URL."""

    def __init__(self) -> None:
        self.signed: list[tuple[str, list[str]]] = []
        self.put: dict[str, bytes] = {}

    def CreateUpload(self, request: assembly_pb2.CreateUploadRequest) -> assembly_pb2.CreateUploadResponse:
        call = len(self.signed)
        self.signed.append((request.prefix, list(request.paths)))
        urls = [f"{call}:{PREFIX}{path}" for path in request.paths]
        return assembly_pb2.CreateUploadResponse(prefix=PREFIX, urls=urls)

    def ListBaseModels(self, request: Any) -> generation_pb2.ListBaseModelsResponse:
        model = generation_pb2.BaseModel(id="sd15", variant="fp16")
        return generation_pb2.ListBaseModelsResponse(base_models=[model])

    def request(self, method: str, url: str, *, body: Any, headers: dict[str, str], timeout: float) -> Any:
        self.put[url] = b"".join(body)
        assert headers == {"Content-Length": str(len(self.put[url]))}
        return SimpleNamespace(status=200)


@pytest.fixture
def services() -> Services:
    return Services()


@pytest.fixture
def client(services: Services) -> Client:
    client = Client(PeerSettings())
    client.assembly = client.generation = services  # type: ignore[assignment]
    client._http = services  # type: ignore[assignment]
    return client


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NEEDED | OTHERS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "model_index.json").write_bytes(b'{"_class_name": "StableDiffusionPipeline"}')
    return tmp_path


def sent(services: Services) -> dict[str, bytes]:
    return {url.partition(":")[2].removeprefix(PREFIX): data for url, data in services.put.items()}


def test_of_a_downloaded_repository_what_the_model_is_loaded_from_is_sent(
    client: Client, services: Services, folder: Path
) -> None:
    told: list[tuple[int, int]] = []
    prefix = client.upload_model(folder, "sd15", lambda done, total: told.append((done, total)))
    assert prefix == PREFIX
    assert sent(services) == {name: (folder / name).read_bytes() for name in NEEDED}
    assert told == [(done, len(NEEDED)) for done in range(1, len(NEEDED) + 1)]
    # Under an id of its own a model has no weights that are preferred: the service takes those in full precision.
    services.put.clear()
    client.upload_model(folder, "ours")
    assert set(sent(services)) == {name.replace(".fp16", "") for name in NEEDED}


def test_each_file_is_signed_for_when_its_turn_comes(client: Client, services: Services, folder: Path) -> None:
    client.upload_model(folder, "sd15", part_bytes=20)
    parts = sorted(sent(services))
    assert parts[-2:] == [f"vae/diffusion_pytorch_model.fp16.safetensors.part-000{number}" for number in (1, 2)]
    first, *later = services.signed
    assert first == ("", [*first[1]])
    assert sorted(first[1]) == parts  # all names are looked at before anything is sent
    assert sorted(later) == [(PREFIX, [part]) for part in parts]
    assert not any(url.startswith("0:") for url in services.put)


def test_nothing_is_sent_of_a_folder_that_is_no_model(client: Client, services: Services, folder: Path) -> None:
    (folder / "vae/config.json").rename(folder / "config.json")
    for name in ("model", "diffusion_pytorch_model", "diffusion_pytorch_model.fp16"):
        (folder / f"vae/{name}.safetensors").unlink(missing_ok=True)
    with pytest.raises(FailedPreconditionError, match="lacks vae/") as caught:
        client.upload_model(folder, "sd15")
    assert caught.value.reason == "BASE_MODEL_INCOMPLETE"
    (folder / "model_index.json").unlink()
    with pytest.raises(FailedPreconditionError, match="model_index"):
        client.upload_model(folder, "sd15")
    assert not services.signed
