"""Base models through the API and the command line: pulled from a hub on this machine, imported, verified."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from flawsmith.cli import main as cli
from flawsmith.client import Client, metadata_of
from flawsmith.common.desired_models import DesiredModels
from flawsmith.common.errors import FlawsmithError, UnavailableError
from flawsmith.common.images import decode_image
from flawsmith.common.manifests import AdapterManifest, BatchManifest, Regime
from flawsmith.common.resources import Resources
from flawsmith.generation.catalog import (
    BaseModelManifest,
    download_base_model,
    installed_base_model,
    load_catalog,
)
from flawsmith.generation.diffusion import load_model
from flawsmith.generation.drawer import Drawer
from flawsmith.generation.drawing_request import DrawingRequest
from flawsmith.generation.serving import triton_model
from flawsmith.generation.v1 import generation_pb2
from flawsmith.local.platform import LocalPlatform
from tests.unit.generation.hub_server import HubServer, Published
from tests.unit.generation.tiny_pipelines import write_tiny_pipeline

OURS = {"licence": "MIT", "commercial_use": True, "licence_limits": "none"}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stable Diffusion XL's repository, tiny, in half precision and with a pickle beside it."""
    folder = write_tiny_pipeline("sdxl-inpaint", tmp_path_factory.mktemp("published"), variant="fp16")
    (folder / "unet/diffusion_pytorch_model.bin").write_bytes(b"a pickle" * 1000)
    return folder


@pytest.fixture(scope="module")
def hub(published: Path) -> Iterator[HubServer]:
    """Has the tiny files under the commits that the catalog names: for XL, of which it knows no hashes, and for Stable
    Diffusion 1.5, of which it does."""
    catalog = load_catalog()
    entries = [catalog["sdxl-inpaint"], catalog["sd15"]]
    with HubServer({str(entry.repository): Published(str(entry.revision), published) for entry in entries}) as server:
        yield server


@pytest.fixture(scope="module")
def worker(platform: LocalPlatform, hub: HubServer) -> Iterator[None]:
    """The generation service's worker, whose hub is the one on this machine."""
    environment = platform.environment
    platform.environment = lambda service, role, *, executor=None: {  # type: ignore[method-assign]
        **environment(service, role, executor=executor), "FLAWSMITH_HUB__ENDPOINT": hub.endpoint,
    }  # fmt: skip
    platform.processes["generation-worker"].stop()
    platform.start_process("generation", "worker")
    yield
    platform.environment = environment  # type: ignore[method-assign]
    platform.processes["generation-worker"].stop()
    platform.start_process("generation", "worker")


def listed(client: Client) -> dict[str, generation_pb2.BaseModel]:
    found = client.generation.ListBaseModels(generation_pb2.ListBaseModelsRequest(page_size=1000)).base_models
    return {model.id: model for model in found}


def pull(client: Client, model: str) -> generation_pb2.BaseModel:
    operation = client.generation.PullBaseModel(generation_pb2.PullBaseModelRequest(id=model))
    return client.wait(operation, generation_pb2.BaseModel, timeout_s=120)


def import_folder(client: Client, folder: Path, **values: object) -> generation_pb2.BaseModel:
    """Of whatever is in a folder; `flawsmith models import` leaves behind what no model is loaded from."""
    prefix = client.upload_folder(folder, part_bytes=100_000)
    operation = client.generation.ImportBaseModel(generation_pb2.ImportBaseModelRequest(prefix=prefix, **values))
    return client.wait(operation, generation_pb2.BaseModel, timeout_s=120)


def verify(client: Client, model: str) -> generation_pb2.BaseModelVerification:
    operation = client.generation.VerifyBaseModel(generation_pb2.VerifyBaseModelRequest(id=model))
    return client.wait(operation, generation_pb2.BaseModelVerification, timeout_s=60)


def error_of(call: Callable[[], object]) -> FlawsmithError:
    with pytest.raises(FlawsmithError) as caught:
        call()
    return caught.value


def test_half_a_pull_installs_nothing(client: Client, worker: None, hub: HubServer) -> None:
    hub.replaced["vae/config.json"] = b"{}"
    try:
        error = error_of(lambda: pull(client, "sdxl-inpaint"))
    finally:
        hub.replaced.clear()
    assert (error.code, error.reason) == ("DATA_LOSS", "HUB_FILE_CHANGED")
    assert "vae/config.json" in error.message
    assert not listed(client)["sdxl-inpaint"].installed


def test_a_pulled_model_is_the_hubs(
    client: Client, platform: LocalPlatform, worker: None, hub: HubServer, published: Path, tmp_path: Path
) -> None:
    stages: set[str] = set()
    operation = client.generation.PullBaseModel(generation_pb2.PullBaseModelRequest(id="sdxl-inpaint"))
    assert metadata_of(operation).target == "baseModels/sdxl-inpaint"
    pulled = client.wait(
        operation, generation_pb2.BaseModel, on_progress=lambda metadata: stages.add(metadata.stage), timeout_s=120
    )
    assert "download (MB)" in stages
    assert (pulled.installed, pulled.licence) == (True, "CreativeML-OpenRAIL++-M")
    assert pulled.source == f"{pulled.origin} at commit {pulled.revision}"
    assert listed(client)["sdxl-inpaint"] == pulled
    resources = Resources(platform.store)
    ref = installed_base_model(resources, "sdxl-inpaint")
    assert ref is not None
    manifest = resources.load(ref, BaseModelManifest)
    paths = [file.path for file in manifest.files]
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in paths
    assert not any(path.endswith(".bin") for path in paths)
    for file in manifest.files:
        assert platform.store.get(file.object) == (published / file.path).read_bytes()
    assert pulled.stored_bytes == sum((published / path).stat().st_size for path in paths)
    load_model(download_base_model(resources, ref, tmp_path))
    config = platform.store.get_key(f"triton/{triton_model('sdxl-inpaint', ref.sha256)}/config.pbtxt").decode()
    assert 'string_value: "sdxl-inpaint"' in config
    # Large files are there already: they are not downloaded again, and nothing changes.
    hub.asked.clear()
    assert pull(client, "sdxl-inpaint") == pulled
    assert not any(path.endswith(".safetensors") for path in hub.asked)
    # One that is there and is something else, of the same size, is fetched again.
    weights = next(file.object for file in manifest.files if file.path.startswith("unet/diffusion"))
    platform.store.put(platform.store.key(weights.uri), bytes(weights.size))
    problem = verify(client, "sdxl-inpaint").problems[0].problem
    assert "`flawsmith models pull sdxl-inpaint`" in problem
    assert pull(client, "sdxl-inpaint") == pulled
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in hub.asked
    assert not verify(client, "sdxl-inpaint").problems


def test_what_cannot_be_pulled_says_how_to_go_on(client: Client, worker: None) -> None:
    changed = error_of(lambda: pull(client, "sd15"))
    assert (changed.code, changed.reason) == ("DATA_LOSS", "BASE_MODEL_CHANGED")
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in changed.message
    missing = error_of(lambda: pull(client, "flux2-klein-4b"))
    assert (missing.code, missing.reason) == ("FAILED_PRECONDITION", "HUB_MODEL_MISSING")
    assert "flawsmith models import FOLDER" in missing.message
    assert error_of(lambda: pull(client, "mini")).reason == "NOT_ON_THE_HUB"
    assert error_of(lambda: pull(client, "sd9")).reason == "UNKNOWN_BASE_MODEL"
    assert not listed(client)["sd15"].installed
    assert error_of(lambda: verify(client, "sd15")).reason == "BASE_MODEL_NOT_INSTALLED"


def test_an_imported_model_of_an_id_of_its_own(client: Client, platform: LocalPlatform, tmp_path: Path) -> None:
    uploads = set(platform.store.list_keys("uploads/"))
    folder = write_tiny_pipeline("sdxl-inpaint", tmp_path / "xl")
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker/config.json").write_text("{}")
    imported = import_folder(client, folder, id="our-xl", origin="a friend's", **OURS)
    assert (imported.architecture, imported.licence, imported.commercial_use) == ("stable-diffusion-xl", "MIT", True)
    assert list(imported.capabilities) == ["text-to-image", "inpaint"]
    assert listed(client)["our-xl"] == imported
    resources = Resources(platform.store)
    ref = installed_base_model(resources, "our-xl")
    assert ref is not None
    copied = download_base_model(resources, ref, tmp_path / "copy")
    assert not (copied / "safety_checker").exists()
    for path in copied.rglob("*.safetensors"):  # put together from parts
        assert path.read_bytes() == (folder / path.relative_to(copied)).read_bytes()
    assert set(platform.store.list_keys("uploads/")) <= uploads  # its own are gone


def test_an_imported_model_draws_through_triton(client: Client, platform: LocalPlatform, tmp_path: Path) -> None:
    """Loaded when it is first drawn with: what the same files draw here."""
    folder = write_tiny_pipeline("sd15", tmp_path / "model")
    imported = import_folder(client, folder, id="our-sd", **OURS)
    model = triton_model("our-sd", imported.sha256)
    assert model not in DesiredModels(platform.store, "triton").wanted()
    prompt = client.generation.CreatePrompt(
        generation_pb2.CreatePromptRequest(parent="products/drawn", prompt_id="one", text="skt background")
    )
    client.generation.DecidePrompt(
        generation_pb2.DecidePromptRequest(name=prompt.name, state=generation_pb2.Prompt.STATE_APPROVED)
    )
    request = generation_pb2.GenerateImagesRequest(
        parent="products/drawn", base_model="our-sd", count=1, height=64, width=48, steps=3, guidance=4.0, seed=7,
        text_to_image=generation_pb2.TextToImage(prompts=[prompt.name]),
    )  # fmt: skip
    for attempt in itertools.count():  # ended by the test's own limit
        # Workers here wait a minute for what is down, and busy machines take longer to load a model.
        request.request_id = f"draw-{imported.sha256}-{attempt}"
        try:
            batch = client.wait(client.generation.GenerateImages(request), generation_pb2.Batch, timeout_s=200)
            break
        except UnavailableError as error:
            assert error.reason == "MODEL_NOT_LOADED"
    assert model in DesiredModels(platform.store, "triton").wanted()
    manifest, _ = Resources(platform.store).get(batch.name, BatchManifest)
    theirs = decode_image(platform.store.get(manifest.images[0].image)).astype(int)
    ours = Drawer(load_model(folder), imported.sha256, lambda uri, sha256: folder).draw(
        DrawingRequest(
            prompt="skt background", base_model_sha256=imported.sha256, height=64, width=48, steps=3, guidance=4.0,
            seeds=(7,),
        )
    )[0]  # fmt: skip
    assert np.abs(theirs - ours).mean() < 1.0


def test_an_adapter_of_other_weights_is_refused(client: Client, platform: LocalPlatform, tmp_path: Path) -> None:
    import_folder(client, write_tiny_pipeline("sd15-inpaint", tmp_path / "model"), id="replaced", **OURS)
    weights = platform.store.put_blob(b"an adapter", ".safetensors")
    manifest = AdapterManifest(
        name="products/drawn/adapters/old", product="products/drawn", base_model="replaced",
        base_model_sha256="0" * 64, regime=Regime.FEW_SHOT, algorithm="lierla", rank=4, weights=weights, alpha=1.0,
        instance_prompt="skt", class_prompt="background", training_images=(), steps=1, epochs=1, final_loss=0.1,
        create_time=datetime.now(UTC),
    )  # fmt: skip
    Resources(platform.store).publish(manifest.name, manifest)
    prompt = client.generation.CreatePrompt(
        generation_pb2.CreatePromptRequest(parent="products/drawn", prompt_id="two", text="skt background")
    )
    request = generation_pb2.GenerateImagesRequest(
        parent="products/drawn", adapter=manifest.name, count=1,
        text_to_image=generation_pb2.TextToImage(prompts=[prompt.name]),
    )  # fmt: skip
    error = error_of(lambda: client.generation.GenerateImages(request))
    assert (error.code, error.reason) == ("FAILED_PRECONDITION", "ADAPTER_BASE_MISMATCH")
    assert "fine-tune an adapter on these" in error.message


def test_a_bad_import_installs_nothing(client: Client, platform: LocalPlatform, tmp_path: Path) -> None:
    uploads = set(platform.store.list_keys("uploads/"))
    folder = write_tiny_pipeline("sd15", tmp_path / "bad")
    assert error_of(lambda: import_folder(client, folder, id="bad")).reason == "LICENCE_MISSING"
    refused = error_of(lambda: import_folder(client, folder, id="bad", licence="CC-BY-NC-4.0"))
    assert (refused.code, refused.reason) == ("FAILED_PRECONDITION", "NON_COMMERCIAL_LICENCE")
    half = folder / "unet/diffusion_pytorch_model.fp16.safetensors"
    shutil.copy(folder / "unet/diffusion_pytorch_model.safetensors", half)
    changed = error_of(lambda: import_folder(client, folder, id="sd15"))
    assert (changed.code, changed.reason) == ("DATA_LOSS", "BASE_MODEL_CHANGED")
    half.unlink()
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    weights.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    cut = error_of(lambda: import_folder(client, folder, id="bad", **OURS))
    assert (cut.code, cut.reason) == ("INVALID_ARGUMENT", "WEIGHTS_UNREADABLE")
    weights.unlink()
    lacking = error_of(lambda: import_folder(client, folder, id="bad", **OURS))
    assert (lacking.reason, "unet/*.safetensors" in lacking.message) == ("BASE_MODEL_INCOMPLETE", True)
    assert "bad" not in listed(client)
    assert not listed(client)["sd15"].installed
    assert installed_base_model(Resources(platform.store), "bad") is None
    assert set(platform.store.list_keys("uploads/")) <= uploads


def test_verifying_finds_what_changed_and_what_is_gone(client: Client, platform: LocalPlatform, tmp_path: Path) -> None:
    good = verify(client, "mini")
    assert (good.sha256, list(good.problems)) == (listed(client)["mini"].sha256, [])
    assert good.bytes == listed(client)["mini"].stored_bytes
    # Weights of its own: blobs are shared by their hash.
    import_folder(client, write_tiny_pipeline("sd15-inpaint", tmp_path / "model"), id="spoilt", **OURS)
    resources = Resources(platform.store)
    ref = installed_base_model(resources, "spoilt")
    assert ref is not None
    files = {file.path: file.object for file in resources.load(ref, BaseModelManifest).files}
    weights, config = "unet/diffusion_pytorch_model.safetensors", "unet/config.json"
    data = bytearray(platform.store.get(files[weights]))
    data[-1] ^= 1
    platform.store.put(platform.store.key(files[weights].uri), bytes(data))
    platform.store.delete_key(platform.store.key(files[config].uri))
    found = verify(client, "spoilt")
    assert [problem.path for problem in found.problems] == [config, weights]
    # What to do is named with it: ids of their own come from folders.
    assert found.problems[0].problem.startswith("is missing; ")
    assert all("`flawsmith models import FOLDER --id spoilt`" in problem.problem for problem in found.problems)
    assert files[weights].sha256 in found.problems[1].problem
    assert found.file_count == len(files)
    imported = import_folder(client, tmp_path / "model", id="spoilt", **OURS)
    assert (imported.sha256, list(verify(client, "spoilt").problems)) == (ref.sha256, [])


def run(platform: LocalPlatform, *arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli.main, ["--state", str(platform.state_dir), *arguments])
    return done.exit_code, done.output


def test_the_command_line_lists_imports_and_verifies(platform: LocalPlatform, tmp_path: Path) -> None:
    folder = write_tiny_pipeline("sd15", tmp_path / "cli")
    code, text = run(
        platform, "models", "import", str(folder), "--id", "from-cli", "--licence", "MIT", "--commercial-use",
        "--licence-limits", "none",
    )  # fmt: skip
    assert code == 0, text
    code, text = run(platform, "models", "list")
    assert code == 0
    assert re.search(r"from-cli +installed.*\n.*\n  licence  MIT", text)
    assert re.search(r"sd15 +not installed, 2\.1 GB to pull", text)
    assert "CreativeML-OpenRAIL-M  https://" in text
    assert "use restrictions of its Attachment A" in text
    code, text = run(platform, "--json", "models", "verify", "from-cli")
    assert code == 0
    assert json.loads(text[text.index("{") :])["id"] == "from-cli"
    store, resources = platform.store, Resources(platform.store)
    ref = installed_base_model(resources, "from-cli")
    assert ref is not None
    weights = next(
        file.object for file in resources.load(ref, BaseModelManifest).files if file.path.startswith("vae/diff")
    )
    kept = store.get(weights)
    store.put(store.key(weights.uri), b"spoilt")
    assert run(platform, "models", "verify", "from-cli")[0] == 1
    store.put(store.key(weights.uri), kept)
