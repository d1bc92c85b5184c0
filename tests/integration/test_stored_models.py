"""Base models in a real object store: what is lost there is put back, and what is uploaded there is not left behind."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydantic import BaseModel

from flawsmith.common.desired_models import DesiredModels
from flawsmith.common.errors import DataLossError, FlawsmithError, InvalidArgumentError
from flawsmith.common.jobs import Job, JobClient, JobState
from flawsmith.common.manifests import ImportManifest
from flawsmith.common.object_store import ObjectStore
from flawsmith.common.operations import Operations
from flawsmith.common.process import Platform
from flawsmith.common.resources import Resources
from flawsmith.common.settings import Settings
from flawsmith.common.v1 import common_pb2
from flawsmith.generation.base_models import import_base_model
from flawsmith.generation.catalog import (
    BaseModelFile,
    BaseModelManifest,
    CatalogEntry,
    download_base_model,
    install_files,
    install_folder,
    installed_base_model,
    load_catalog,
    verify_file,
)
from flawsmith.generation.model_requests import ImportModelRequest
from flawsmith.generation.requests import DrawingOptions, FineTuneRequest, find_artist
from flawsmith.generation.servicer import GenerationServicer
from flawsmith.generation.serving import keep_loaded, keep_only, publish_triton_model, triton_model
from flawsmith.generation.v1 import generation_pb2
from tests.unit.generation.tiny_pipelines import write_tiny_pipeline

WEIGHTS, CONFIG = "unet/diffusion_pytorch_model.safetensors", "unet/config.json"
LICENCE = {"licence": "MIT", "licence_limits": "none", "commercial_use": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_pipeline("sd15", tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def _bucket(store: ObjectStore) -> None:
    store.ensure_bucket()


def entry(model_id: str) -> CatalogEntry:
    return load_catalog()["sd15"].model_copy(update={"id": model_id, "hashes": {}, "variant": None})


def problems(store: ObjectStore, manifest: BaseModelManifest) -> dict[str, str]:
    found = [verify_file(store, file, manifest.entry) for file in manifest.files]
    return {problem.path: problem.problem for problem in found if problem is not None}


def test_installing_again_mends_what_the_store_has_lost(store: ObjectStore, folder: Path, tmp_path: Path) -> None:
    resources = Resources(store)
    ref = install_folder(resources, entry("mended"), folder, source="here")
    manifest = resources.load(ref, BaseModelManifest)
    assert problems(store, manifest) == {}
    keys = {file.path: store.key(file.object.uri) for file in manifest.files}
    store.put(keys[WEIGHTS], (folder / WEIGHTS).read_bytes()[:-1] + b"x")  # of the same size
    store.put(keys["vae/config.json"], b"{")
    store.delete_key(keys[CONFIG])

    found = problems(store, manifest)
    assert set(found) == {WEIGHTS, "vae/config.json", CONFIG}
    assert found[CONFIG].startswith("is missing; ")
    assert all("`flawsmith models pull mended`" in problem for problem in found.values())
    with pytest.raises(DataLossError, match="`flawsmith models pull mended`") as caught:
        download_base_model(resources, ref, tmp_path)
    assert caught.value.reason == "BASE_MODEL_DAMAGED"

    # The same files from elsewhere are the same weights: adapters know the manifest's hash.
    events = len(list(store.list_keys("baseModels/mended/")))
    assert install_folder(resources, entry("mended"), folder, source="a copy of it") == ref
    assert problems(store, manifest) == {}
    assert len(list(store.list_keys("baseModels/mended/"))) == events
    assert download_base_model(resources, ref, tmp_path).is_dir()


def test_other_files_or_another_licence_are_another_model(store: ObjectStore, folder: Path, tmp_path: Path) -> None:
    resources, changed = Resources(store), entry("changed")
    first = install_folder(resources, changed, folder, source="here")
    relicensed = install_folder(resources, changed.model_copy(update={"licence": "MIT"}), folder, source="here")
    assert relicensed != first
    other = write_tiny_pipeline("sd15", tmp_path / "other")
    (other / "README.md").write_text("new")
    newer = install_folder(resources, changed, other, source="here")
    assert newer not in (first, relicensed)
    assert installed_base_model(resources, "changed") == newer


def test_words_of_the_catalog_are_no_weights(store: ObjectStore, folder: Path) -> None:
    """A release that describes a model of the catalog otherwise leaves its adapters good."""
    resources, known = Resources(store), entry("sd15")
    first = install_folder(resources, known, folder, source="here")
    reworded = known.model_copy(update={"good_for": "much else"})
    assert install_folder(resources, reworded, folder, source="here") == first


def test_a_release_with_new_weights_is_loaded_and_the_old_ones_are_not_kept(store: ObjectStore) -> None:
    repository = f"triton-{uuid.uuid4().hex}"
    desired = DesiredModels(store, repository)
    desired.keep("diffusion")  # as releases before did
    desired.keep("classifier__p__c__v")
    store.put(f"{repository}/diffusion/1/model.py", b"draw()")
    config = 'name: "diffusion"\nparameters { key: "base_model" value: { string_value: "mini" } }\n'
    store.put(f"{repository}/diffusion/config.pbtxt", config.encode())
    for weights in ("ab" * 32, "cd" * 32):
        model = triton_model("mini", weights)
        publish_triton_model(store, repository, "mini", weights)
        keep_only(desired, model)
        published = store.get_key(f"{repository}/{model}/config.pbtxt").decode()
        assert published == config.replace('"diffusion"', f'"{model}"')
        assert store.get_key(f"{repository}/{model}/1/model.py") == b"draw()"
        assert desired.wanted() == {model, "classifier__p__c__v"}
    keep_loaded(store, repository, model)  # kept for good: drawing asks for nothing more
    wishes = f"{repository}-desired/{model}/"
    assert list(store.list_keys(wishes)) == [f"{wishes}keep"]


class ImportJob:
    """What an import asks of its job."""

    principal = "tester"

    def __init__(self, store: ObjectStore, folder: Path) -> None:
        self._folder = folder
        self.platform = SimpleNamespace(store=store, resources=Resources(store))
        self.settings = SimpleNamespace(
            allow_non_commercial_models=False, triton=SimpleNamespace(repository="imported-models")
        )

    async def step(self, name: str, run: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        return await run(*arguments)

    async def progress(self, *arguments: Any, **values: Any) -> None:
        pass

    @contextlib.asynccontextmanager
    async def folder(self) -> AsyncIterator[Path]:
        self._folder.mkdir()
        yield self._folder
        shutil.rmtree(self._folder)


def upload(store: ObjectStore, folder: Path, prefix: str, *, without: str = "", spoilt: str = "") -> None:
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != without:
            store.put(prefix + name, b"version https://git-lfs.github.com" if name == spoilt else path.read_bytes())


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"without": WEIGHTS}, "BASE_MODEL_INCOMPLETE"), ({"spoilt": WEIGHTS}, "WEIGHTS_UNREADABLE"),
        ({"without": "model_index.json"}, "BASE_MODEL_INCOMPLETE"), ({}, None),
    ],
)  # fmt: skip
async def test_an_import_leaves_no_uploads_whether_it_fails_or_not(
    store: ObjectStore, folder: Path, tmp_path: Path, wrong: dict[str, str], reason: str | None
) -> None:
    store.put("imported-models/diffusion/1/model.py", b"draw()")
    config = 'name: "diffusion"\nparameters { key: "base_model" value: { string_value: "mini" } }\n'
    store.put("imported-models/diffusion/config.pbtxt", config.encode())
    store.put("uploads/feedfeedfeedfeed/image.png", b"somebody else's")
    others = list(store.list_keys("uploads/"))
    upload(store, folder, "uploads/0123456789abcdef/", **wrong)
    request = ImportModelRequest(id="left", prefix=store.uri("uploads/0123456789abcdef/"), **LICENCE)
    job = cast(Job, ImportJob(store, tmp_path / "work"))
    if reason is None:
        assert (await import_base_model(job, request))["installed"]
    else:
        with pytest.raises(FlawsmithError) as caught:
            await import_base_model(job, request)
        assert caught.value.reason == reason
    assert list(store.list_keys("uploads/")) == others


@pytest.mark.parametrize("prefix", ["uploads/", "elsewhere/model/"])
async def test_a_failed_import_deletes_nothing_that_was_not_uploaded_for_it(
    store: ObjectStore, tmp_path: Path, prefix: str
) -> None:
    kept = store.put(f"{prefix}0123/image.png", b"somebody else's")
    request = ImportModelRequest(id="left", prefix=store.uri(prefix), **LICENCE)
    with pytest.raises(FlawsmithError) as caught:
        await import_base_model(cast(Job, ImportJob(store, tmp_path / "work")), request)
    assert caught.value.reason == "BASE_MODEL_INCOMPLETE"
    assert store.get(kept) == b"somebody else's"
    store.delete_key(store.key(kept.uri))


class Jobs:
    """Takes jobs and never runs them. specs: what they were asked."""

    def __init__(self) -> None:
        self.specs: list[BaseModel] = []

    def operation_id(self, principal: str, request_id: str) -> str:
        return f"generation-{'0' * 24}"

    async def start(self, operation: str, kind: str, spec: BaseModel, **where: Any) -> None:
        self.specs.append(spec)

    async def get(self, operation: str) -> JobState:
        now = datetime(2026, 1, 2, tzinfo=UTC)
        return JobState(operation, "FineTuneAdapter", "", "", "queued", create_time=now, update_time=now)


@pytest.fixture
def jobs() -> Jobs:
    return Jobs()


@pytest.fixture
def servicer(store: ObjectStore, jobs: Jobs) -> GenerationServicer:
    platform = SimpleNamespace(store=store, resources=Resources(store), settings=Settings())
    operations = Operations(cast(JobClient, jobs), platform.resources, {}, frozenset())
    return GenerationServicer(cast(Platform, platform), operations)


async def test_an_imported_model_is_tuned_and_drawn_with_as_its_architecture_wants(
    store: ObjectStore, servicer: GenerationServicer, jobs: Jobs
) -> None:
    resources, ref = Resources(store), store.put_blob(b"{}", ".json")
    ours = load_catalog()["flux2-klein-4b"].model_copy(update={"id": "our-flux"})
    install_files(resources, ours, [BaseModelFile(path="model_index.json", object=ref)], source="here")
    manifest = ImportManifest(
        name="products/tuned/imports/i", product="products/tuned", layout="mvtec-ad", split_rule="none", images=(),
        seed=1, create_time=datetime.now(UTC),
    )  # fmt: skip
    imported = resources.publish(manifest.name, manifest)
    request = generation_pb2.FineTuneAdapterRequest(
        parent="products/tuned", regime=common_pb2.REGIME_FEW_SHOT,
        import_manifest=common_pb2.ObjectRef(uri=imported.uri, sha256=imported.sha256, size=imported.size),
        config=generation_pb2.FineTuneConfig(base_model="our-flux", regularization_steps=6),
    )  # fmt: skip
    await servicer.FineTuneAdapter(request, None)
    assert isinstance(jobs.specs[0], FineTuneRequest)
    config = jobs.specs[0].config
    # What the request says goes over what the architecture wants.
    assert (config.base_model, config.resolution, config.precision) == ("our-flux", 1024, "auto")
    assert (config.preset, config.regularization_steps) == ("in-and-out-few", 6)
    artist = find_artist(resources, "products/tuned", DrawingOptions(base_model="our-flux"))
    assert artist.architecture == "flux2-klein"


async def test_an_import_that_is_refused_at_once_leaves_no_uploads(
    store: ObjectStore, servicer: GenerationServicer, jobs: Jobs
) -> None:
    others = list(store.list_keys("uploads/"))
    store.put("uploads/0123456789abcdef/model_index.json", b"{}")
    request = generation_pb2.ImportBaseModelRequest(id="mini", prefix=store.uri("uploads/0123456789abcdef/"))
    with pytest.raises(InvalidArgumentError, match="under an id of their own") as caught:
        await servicer.ImportBaseModel(request, None)
    assert caught.value.reason == "BUILT_IN_MODEL"
    assert not jobs.specs
    assert list(store.list_keys("uploads/")) == others
