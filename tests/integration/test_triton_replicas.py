"""Two real Tritons behind one address, each with its reconciler, and the platform in front of them."""

from __future__ import annotations

import asyncio
import inspect
import json
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator

import numpy as np
import pytest
from google.longrunning import operations_pb2
from google.protobuf import duration_pb2

from flawsmith.assembly.v1 import assembly_pb2
from flawsmith.classification.manifests import ClassifierVersionManifest
from flawsmith.classification.triton_config import triton_model_name
from flawsmith.classification.v1 import classification_pb2
from flawsmith.client import Client, metadata_of
from flawsmith.common.desired_models import DesiredModels
from flawsmith.common.errors import FailedPreconditionError, UnavailableError
from flawsmith.common.health import LIVENESS, is_serving
from flawsmith.common.images import encode_png
from flawsmith.common.resources import Resources
from flawsmith.common.settings import JobSettings, TritonSettings
from flawsmith.common.triton import TritonClient
from flawsmith.common.v1 import common_pb2
from flawsmith.drawing.sample_product import write_sample_dataset
from flawsmith.generation.catalog import require_base_model
from flawsmith.generation.serving import triton_model
from flawsmith.local.platform import LocalPlatform
from flawsmith.local.processes import free_port

PRODUCT = "products/replicas"
CLASSIFIER = f"{PRODUCT}/classifiers/c"
CONFIG = """
backend: "python"
max_batch_size: 0
input [{ name: "x" data_type: TYPE_INT64 dims: [ 1 ] }]
output [{ name: "pid" data_type: TYPE_INT64 dims: [ 1 ] }]
"""
WHO_AM_I = """
import os
import numpy as np
import triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        return [pb.InferenceResponse([pb.Tensor("pid", np.array([os.getppid()]))]) for _ in requests]
"""
UNLOAD_AFTER_S = 2.0


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPlatform]:
    """A platform with two Tritons."""
    port = free_port()
    platform = LocalPlatform(
        tmp_path_factory.mktemp("replicas"),
        free_ports=True,
        jobs_settings=JobSettings(heartbeat_s=1.0, silent_after_s=6.0, outage_patience_s=60.0),
        triton_settings=TritonSettings(
            url=f"127.0.0.1:{port},127.0.0.2:{port}",
            reconcile_s=0.5,
            unload_after_s=UNLOAD_AFTER_S,
            load_timeout_s=10.0,
        ),
    )
    platform.start()
    yield platform
    platform.stop()


@pytest.fixture
async def triton(replicas: LocalPlatform) -> AsyncIterator[TritonClient]:
    triton = TritonClient(replicas.settings.triton)
    yield triton
    await triton.close()


@pytest.fixture
def desired(replicas: LocalPlatform) -> DesiredModels:
    return DesiredModels(replicas.store, replicas.settings.triton.repository)


def put_model(platform: LocalPlatform, name: str, code: str = WHO_AM_I) -> None:
    repository = platform.settings.triton.repository
    platform.store.put(f"{repository}/{name}/1/model.py", code.encode())
    platform.store.put(f"{repository}/{name}/config.pbtxt", CONFIG.encode())


def mini_model(platform: LocalPlatform) -> str:
    """The Triton model that is loaded from the start."""
    return triton_model("mini", require_base_model(Resources(platform.store), "mini").sha256)


async def loaded(triton: TritonClient) -> list[frozenset[str]]:
    return [await triton.at(endpoint).loaded_models() for endpoint in await triton.endpoints()]


async def eventually(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not (await found if inspect.isawaitable(found := condition()) else found):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


async def sample(address: str, series: str) -> float:
    """The value of a Prometheus series now."""
    answer = await asyncio.to_thread(urllib.request.urlopen, f"http://{address}/metrics")
    lines = [line.rpartition(" ") for line in answer.read().decode().splitlines() if not line.startswith("#")]
    return {key: float(number) for key, _, number in lines}[series]


async def metric(address: str, series: str, value: float) -> bool:
    return await sample(address, series) == value


async def who_answers(triton: TritonClient, model: str) -> int:
    return int((await triton.infer(model, {"x": np.array([1])}, ["pid"], timeout_s=10))["pid"][0])


async def test_every_triton_serves_what_is_wanted_and_shares_the_work(
    replicas: LocalPlatform, triton: TritonClient, desired: DesiredModels
) -> None:
    assert await triton.endpoints() == sorted(replicas.tritons.values())
    reconciler = replicas.metrics["triton-1-reconciler"]
    loads = 'flawsmith_triton_model_changes_total{action="load",outcome="done"}'
    # of mini's model: a slow machine may have counted it as failed, for it took longer than the timeout
    before = await sample(reconciler, loads)
    put_model(replicas, "who")
    assert not any("who" in models for models in await loaded(triton))
    desired.keep("who")
    endpoints = await triton.wait_until_loaded("who", 30)
    assert endpoints == sorted(replicas.tritons.values())
    first = {await who_answers(triton, "who")}
    while len(first) < 2:  # connecting to the second may take a call longer than to the first
        first.add(await who_answers(triton, "who"))
    answers = [await who_answers(triton, "who") for _ in range(20)]
    assert sorted(answers.count(pid) for pid in set(answers)) == [10, 10]

    await eventually(lambda: metric(reconciler, 'flawsmith_triton_models{state="loaded"}', 2))
    assert await metric(reconciler, 'flawsmith_triton_models{state="wanted"}', 2)
    assert await metric(reconciler, 'flawsmith_triton_models{state="missing"}', 0)
    await eventually(lambda: metric(reconciler, loads, before + 1))
    for name in replicas.tritons:
        assert await sample(replicas.metrics[name], 'nv_inference_request_success{model="who",version="1"}') >= 11

    desired.forget("who")
    started = time.monotonic()
    await eventually(lambda: _gone(triton, "who"))
    assert time.monotonic() - started > UNLOAD_AFTER_S - 0.5
    assert all(mini_model(replicas) in models for models in await loaded(triton))


async def _gone(triton: TritonClient, model: str) -> bool:
    return not any(model in models for models in await loaded(triton))


async def test_a_candidate_is_wanted_for_its_time_only(
    replicas: LocalPlatform, triton: TritonClient, desired: DesiredModels
) -> None:
    put_model(replicas, "candidate")
    desired.want_for("candidate", 20)
    await triton.wait_until_loaded("candidate", 30)
    await eventually(lambda: _gone(triton, "candidate"))
    assert "candidate" not in desired.wanted()


async def test_a_model_that_cannot_be_loaded_stops_no_other(
    replicas: LocalPlatform, triton: TritonClient, desired: DesiredModels
) -> None:
    put_model(replicas, "aaa-broken", "import nothing_of_that_name")
    put_model(replicas, "sound")
    desired.keep("aaa-broken")
    desired.keep("sound")
    await triton.wait_until_loaded("sound", 30)
    with pytest.raises(UnavailableError) as caught:
        await triton.wait_until_loaded("aaa-broken", 3)
    assert caught.value.reason == "MODEL_NOT_ON_EVERY_TRITON"
    for endpoint in replicas.tritons.values():
        assert endpoint in caught.value.message
    assert "nothing_of_that_name" in caught.value.message
    # One new wish that cannot be fulfilled makes no Triton unready.
    assert all(is_serving(replicas.health[f"{name}-reconciler"]) for name in replicas.tritons)
    log = replicas.processes["triton-reconciler"].tail(100_000)
    failures = [json.loads(line) for line in log.splitlines() if "load failed" in line and "aaa-broken" in line]
    assert [failure["pause_s"] for failure in failures] == [2.0 * 2**n for n in range(len(failures))]
    assert failures
    desired.forget("aaa-broken")
    desired.forget("sound")
    await eventually(lambda: _gone(triton, "sound"))


async def test_a_restarted_triton_has_its_models_before_it_is_ready(
    replicas: LocalPlatform, triton: TritonClient, desired: DesiredModels
) -> None:
    put_model(replicas, "who")
    desired.keep("who")
    await triton.wait_until_loaded("who", 30)
    health = replicas.health["triton-1-reconciler"]
    second = triton.at(replicas.tritons["triton-1"])
    assert is_serving(health)
    replicas.processes["triton-1"].kill()
    await eventually(lambda: not is_serving(health), 15)
    assert is_serving(health, LIVENESS)
    # The other one answers meanwhile, also while this one is up and empty.
    answers: list[int] = []
    asking = asyncio.create_task(keep_asking(triton, "who", answers))
    replicas.processes["triton-1"].start()
    await eventually(lambda: asyncio.to_thread(is_serving, health), 90)
    assert await second.loaded_models() >= {"who", mini_model(replicas)}
    await eventually(lambda: len(set(answers)) == 2, 30)
    assert not asking.done()  # no call failed
    asking.cancel()
    desired.forget("who")


async def keep_asking(triton: TritonClient, model: str, answers: list[int]) -> None:
    while True:
        answers.append(await who_answers(triton, model))
        await asyncio.sleep(0.02)


@pytest.fixture(scope="module")
def client(replicas: LocalPlatform) -> Iterator[Client]:
    with Client(replicas.settings.peers, principal="tester") as client:
        yield client


@pytest.fixture(scope="module")
def versions(replicas: LocalPlatform, client: Client, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three versions of one classifier."""
    folder = tmp_path_factory.mktemp("data")
    write_sample_dataset(
        folder, seed=4, train_normal=8, train_defect=4, test_normal=3, test_defect=3, height=64, width=64
    )
    prefix = client.upload_folder(folder)
    imported = client.wait(
        client.assembly.ImportImages(assembly_pb2.ImportImagesRequest(parent=PRODUCT, import_id="i", prefix=prefix)),
        assembly_pb2.Import,
    )
    dataset = client.wait(
        client.assembly.AssembleDataset(
            assembly_pb2.AssembleDatasetRequest(
                **{"import": imported.name}, parent=PRODUCT, regime=common_pb2.REGIME_FULL_SHOT
            )
        ),
        assembly_pb2.Dataset,
    )
    trained = client.wait(
        client.classification.TrainClassifier(
            classification_pb2.TrainClassifierRequest(
                parent=CLASSIFIER, version_id="v1", dataset_manifest=dataset.manifest, steps=2, height=64, width=64
            )
        ),
        classification_pb2.ClassifierVersion,
    )
    # The same files under further names: what is tested here is where they are loaded.
    resources, names = Resources(replicas.store), [f"{CLASSIFIER}/versions/v{number}" for number in (1, 2, 3)]
    manifest, _ = resources.get(trained.name, ClassifierVersionManifest)
    for name in names[1:]:
        resources.publish(name, manifest.model_copy(update={"name": name}))
    return names


def deploy(client: Client, version: str) -> operations_pb2.Operation:
    return client.classification.DeployClassifier(classification_pb2.DeployClassifierRequest(name=version))


def follow(client: Client, operation: operations_pb2.Operation) -> operations_pb2.Operation:
    request = operations_pb2.WaitOperationRequest(name=operation.name, timeout=duration_pb2.Duration(nanos=300_000_000))
    return client.operations(operation.name).WaitOperation(request)


def classify(client: Client) -> classification_pb2.ClassifyResponse:
    image = common_pb2.ImageSource(content=encode_png(np.full((64, 64, 3), 128, dtype=np.uint8)))
    return client.classification.Classify(classification_pb2.ClassifyRequest(classifier=CLASSIFIER, image=image))


def test_the_alias_waits_for_every_triton(replicas: LocalPlatform, client: Client, versions: list[str]) -> None:
    assert replicas.processes["triton-1-reconciler"].stop() == 0
    operation = deploy(client, versions[0])
    deadline = time.monotonic() + 60
    while replicas.tritons["triton-1"] not in metadata_of(operation).message:
        assert time.monotonic() < deadline, metadata_of(operation)
        operation = follow(client, operation)
    assert replicas.tritons["triton"] not in metadata_of(operation).message.replace(replicas.tritons["triton-1"], "")
    assert not operation.done
    with pytest.raises(FailedPreconditionError) as caught:
        classify(client)
    assert caught.value.reason == "NO_CHAMPION"

    replicas.start_reconciler("triton-1")
    deployed = client.wait(operation, classification_pb2.Deployment, timeout_s=60)
    assert deployed.version == versions[0]
    assert {classify(client).version for _ in range(4)} == {versions[0]}


def test_the_champion_and_the_version_before_it_stay_loaded(
    replicas: LocalPlatform, client: Client, versions: list[str], desired: DesiredModels
) -> None:
    def models(*chosen: str) -> set[str]:
        return {triton_model_name(version) for version in chosen} | {mini_model(replicas)}

    for version in versions:
        client.wait(deploy(client, version), classification_pb2.Deployment, timeout_s=60)
    assert desired.wanted() == models(*versions[1:])
    client.classification.RollBackClassifier(classification_pb2.RollBackClassifierRequest(name=CLASSIFIER))
    assert classify(client).version in versions[1:]  # within a second the alias shows everywhere
    assert desired.wanted() == models(*versions[:2])
    deadline = time.monotonic() + 30
    while (now := asyncio.run(_loaded_everywhere(replicas))) != [models(*versions[:2])] * 2:
        assert time.monotonic() < deadline, now
        time.sleep(0.3)
    assert classify(client).version == versions[1]


async def _loaded_everywhere(replicas: LocalPlatform) -> list[frozenset[str]]:
    triton = TritonClient(replicas.settings.triton)
    try:
        return await loaded(triton)
    finally:
        await triton.close()


def test_a_roll_back_waits_for_a_triton_that_lacks_the_version(
    replicas: LocalPlatform, client: Client, versions: list[str]
) -> None:
    before = classify(client).version
    replicas.processes["triton-1-reconciler"].stop()
    asyncio.run(_unload(replicas, "triton-1", versions[0]))
    with pytest.raises(UnavailableError) as caught:
        client.classification.RollBackClassifier(classification_pb2.RollBackClassifierRequest(name=CLASSIFIER))
    assert caught.value.reason == "MODEL_NOT_ON_EVERY_TRITON"
    assert caught.value.retry_after_s
    assert replicas.tritons["triton-1"] in caught.value.message
    assert classify(client).version == before == versions[1]
    replicas.start_reconciler("triton-1")
    client.classification.RollBackClassifier(classification_pb2.RollBackClassifierRequest(name=CLASSIFIER))
    time.sleep(1.1)
    assert classify(client).version == versions[0]


async def _unload(replicas: LocalPlatform, triton: str, version: str) -> None:
    client = TritonClient(replicas.settings.triton)
    await client.at(replicas.tritons[triton]).unload(triton_model_name(version))
    await client.close()
