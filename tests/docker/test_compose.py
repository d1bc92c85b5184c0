"""The platform as docker-compose.yml runs it: the main job through restarts, outages, more and fewer replicas.

The tests run in this order and build on each other, for starting everything takes minutes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from google.longrunning import operations_pb2

from flawsmith.assembly.v1 import assembly_pb2
from flawsmith.augmentation.v1 import augmentation_pb2
from flawsmith.classification.v1 import classification_pb2
from flawsmith.client import Client, metadata_of
from flawsmith.common.errors import FlawsmithError, UnavailableError
from flawsmith.common.v1 import common_pb2
from flawsmith.drawing.sample_product import write_sample_dataset
from flawsmith.generation.v1 import generation_pb2
from tests.docker.topology import APIS, OURS, OUTSIDE, WORKERS, Topology, docker, until

PRODUCT = "products/plate"
CLASSIFIER = f"{PRODUCT}/classifiers/main"
FEW = common_pb2.REGIME_FEW_SHOT
State = common_pb2.OperationMetadata.State
OUTAGE_S = 60.0
ANSWER_S = 30.0
"""How long a call that cannot be served may take to say so."""
ALLOWED_ERRORS: tuple[str, ...] = ()
"""Patterns of ERROR lines that are no defect, each with its reason beside it. There is none."""

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sample")
    write_sample_dataset(
        path, seed=3, train_normal=20, train_defect=8, test_normal=8, test_defect=6, height=64, width=64
    )
    return path


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    """What earlier tests made."""
    return {}


def current(client: Client, operation: operations_pb2.Operation) -> operations_pb2.Operation:
    """The operation now; None where its service does not answer."""
    try:
        return client.operations(operation.name).GetOperation(operations_pb2.GetOperationRequest(name=operation.name))
    except UnavailableError:
        return None


def running(client: Client, operation: operations_pb2.Operation, step: int = 1, timeout_s: float = 120) -> None:
    """Wait until the operation is at a step, and not done."""

    def reached() -> bool:
        now = current(client, operation)
        assert now is None or not now.done, f"{operation.name} ended before it could be disturbed: {now}"
        return now is not None and metadata_of(now).step >= step

    until(reached, timeout_s, f"{operation.name} at step {step}")


def restart(topology: Topology, client: Client, operation: operations_pb2.Operation, *services: str) -> None:
    """Restart containers, all at once, while the operation is under way."""
    with ThreadPoolExecutor(len(services)) as pool:
        list(pool.map(topology.restart, services))
    now = until(lambda: current(client, operation), 120, f"{operation.name} after the restart of {services}")
    assert not now.done, f"{operation.name} ended too early to show that it survives a restart of {services}"


def test_the_main_job_survives_a_restart_of_every_container(
    topology: Topology, client: Client, folder: Path, made: dict[str, Any]
) -> None:
    imported = client.wait(
        client.assembly.ImportImages(
            assembly_pb2.ImportImagesRequest(
                parent=PRODUCT, import_id="i1", prefix=client.upload_folder(folder), seed=1
            )
        ),
        assembly_pb2.Import,
        timeout_s=120,
    )
    fine_tune = client.generation.FineTuneAdapter(
        generation_pb2.FineTuneAdapterRequest(
            parent=PRODUCT, import_manifest=imported.manifest, regime=FEW, seed=1,
            config=generation_pb2.FineTuneConfig(
                base_model="mini", max_steps=60, epochs=60, batch_size=1, regularization_images=2,
                height=64, width=64, rank=4,
            ),
        )
    )  # fmt: skip
    running(client, fine_tune, step=3)
    restart(topology, client, fine_tune, "generation-worker", "generation-api", "postgres", "object-store")
    adapter = client.wait(fine_tune, generation_pb2.Adapter, timeout_s=400)
    assert adapter.steps == 60

    request = client.assembly.RequestDataset(
        assembly_pb2.RequestDatasetRequest(
            **{"import": imported.name}, parent=PRODUCT, regime=FEW, n_aug=40, seed=9, request_id="line-7-0001",
            generation=assembly_pb2.GenerationOptions(
                adapter=adapter.name, prompts=["skt background scratched"], steps=30
            ),
        )
    )  # fmt: skip
    until(
        lambda: metadata_of(current(client, request) or request).state == State.STATE_WAITING_FOR_APPROVAL,
        120,
        "the request waits for a person",
    )
    restart(topology, client, request, "assembly-worker", "assembly-api")
    (prompt,) = client.generation.ListPrompts(generation_pb2.ListPromptsRequest(parent=PRODUCT)).prompts
    client.generation.DecidePrompt(
        generation_pb2.DecidePromptRequest(name=prompt.name, state=generation_pb2.Prompt.STATE_APPROVED)
    )
    drawing = until(lambda: _running_operation(client, "generation"), 120, "images are drawn")
    restart(topology, client, drawing, "triton", "triton-reconciler")
    dataset = client.wait(request, assembly_pb2.Dataset, timeout_s=400)

    augment = client.augmentation.AugmentImages(
        augmentation_pb2.AugmentImagesRequest(
            parent=PRODUCT, import_manifest=imported.manifest, method="memseg", count=2000, seed=5
        )
    )
    running(client, augment)
    restart(topology, client, augment, "augmentation-worker", "augmentation-api")
    assert client.wait(augment, augmentation_pb2.AugmentedBatch, timeout_s=400).image_count == 2000

    train = client.classification.TrainClassifier(
        classification_pb2.TrainClassifierRequest(
            parent=CLASSIFIER, dataset_manifest=dataset.manifest, steps=30, height=64, width=64
        )
    )
    running(client, train)
    restart(topology, client, train, "classification-worker", "classification-api")
    version = client.wait(train, classification_pb2.ClassifierVersion, timeout_s=400)
    deployment = client.wait(
        client.classification.DeployClassifier(classification_pb2.DeployClassifierRequest(name=version.name)),
        classification_pb2.Deployment,
        timeout_s=120,
    )
    made.update(imported=imported, adapter=adapter, dataset=dataset, version=version)

    assert topology.restarted == {*OURS, *OUTSIDE}
    train_counts, test_counts = dataset.counts["train"], dataset.counts["test"]
    assert train_counts.normal + dataset.counts["validation"].normal == 20
    assert (train_counts.real_defect, train_counts.in_distribution, train_counts.out_of_distribution) == (5, 20, 20)
    assert (test_counts.normal, test_counts.real_defect) == (8, 6)
    assert (test_counts.in_distribution, test_counts.out_of_distribution) == (0, 0)
    checked = client.assembly.ValidateDataset(assembly_pb2.ValidateDatasetRequest(name=dataset.name))
    assert list(checked.problems) == []
    assert version.steps == 30
    assert deployment.max_abs_diff_vs_onnxruntime <= 1e-4
    (manifest,) = client.download([dataset.manifest])
    assert hashlib.sha256(manifest).hexdigest() == dataset.manifest.sha256
    answer = classify(client, folder)
    assert answer.version == version.name
    called = answer.score >= answer.threshold.value
    assert answer.verdict == (classification_pb2.VERDICT_DEFECTIVE if called else classification_pb2.VERDICT_OK)


def test_prepare_changes_nothing_the_second_time(topology: Topology, client: Client, made: dict[str, Any]) -> None:
    docker("start", "--attach", topology.container("prepare"))
    assert topology.inspect("prepare")["State"]["ExitCode"] == 0
    adapters = client.generation.ListAdapters(generation_pb2.ListAdaptersRequest(parent=PRODUCT)).adapters
    assert [adapter.name for adapter in adapters] == [made["adapter"].name]


@pytest.mark.parametrize("service", OURS)
def test_containers_are_confined_and_healthy(topology: Topology, service: str) -> None:
    known = topology.inspect(service)
    users = docker("top", known["Id"], "-eo", "pid,uid,gid").splitlines()[1:]
    assert users
    assert {tuple(line.split()[1:]) for line in users} == {("10001", "10001")}
    host = known["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert not host["Privileged"]
    write = ["docker", "exec", known["Id"], "python3", "-c", "open('/opt/written', 'w')"]
    refused = subprocess.run(write, capture_output=True, text=True, timeout=30, check=False)
    assert "Read-only file system" in refused.stderr
    assert topology.is_ready(service)
    until(lambda: topology.inspect(service)["State"]["Health"]["Status"] == "healthy", 90, f"{service} is healthy")
    labels = known["Config"]["Labels"]
    assert labels["org.opencontainers.image.title"].startswith("flawsmith-")
    assert re.fullmatch(r"\d+\.\d+\.\d+", labels["org.opencontainers.image.version"])


@pytest.mark.parametrize(
    ("service", "absent"),
    [
        ("assembly-api", ("torch", "onnxruntime", "diffusers", "transformers", "sklearn")),
        ("augmentation-api", ("torch", "onnxruntime", "diffusers", "transformers", "sklearn")),
        ("generation-api", ("torch", "diffusers", "transformers")),
        ("classification-api", ("torch", "onnx", "transformers", "sklearn", "matplotlib")),
        ("generation-worker", ("onnx", "sklearn", "matplotlib")),
        ("classification-worker", ("diffusers", "peft")),
    ],
)
def test_images_hold_what_their_service_needs(topology: Topology, service: str, absent: tuple[str, ...]) -> None:
    code = f"import importlib.util as u; print([n for n in {absent!r} if u.find_spec(n)])"
    assert docker("exec", topology.container(service), "python", "-c", code) == "[]"


def test_kernels_are_compiled_in_the_image(topology: Topology) -> None:
    code = """
from numba.core.registry import CPUDispatcher
from flawsmith.augmentation import kernels
found = [one.stats for one in vars(kernels).values() if isinstance(one, CPUDispatcher)]
print(sum(sum(one.cache_hits.values()) for one in found), sum(sum(one.cache_misses.values()) for one in found))
"""
    hits, misses = docker("exec", topology.container("augmentation-api"), "python", "-c", code).split()
    assert int(hits) > 0
    assert int(misses) == 0


def test_replicas_come_and_go_without_a_failed_call(topology: Topology, folder: Path, made: dict[str, Any]) -> None:
    image = base64.b64encode((folder / "test/20000.png").read_bytes()).decode()
    load = topology.compose("run", "--detach", "load", CLASSIFIER, image, "40").splitlines()[-1]
    try:
        first = topology.container("classification-api")
        until(lambda: _classified(first) > 20, 60, "the load begins")
        topology.compose("--profile", "more", "up", "--detach", "--no-build", "--no-deps", "--scale",
                         "classification-api-more=2", "classification-api-more")  # fmt: skip
        replicas = [first, *topology.containers("classification-api-more")]
        assert len(replicas) == 3
        # Clients ask the name anew when a connection's age is reached, at most every 30 s.
        until(lambda: all(_classified(one) > 0 for one in replicas), 90, "the new replicas get calls")
        before = [_classified(one) for one in replicas]
        time.sleep(15)
        shares = [_classified(one) - count for one, count in zip(replicas, before, strict=True)]
        for replica in replicas[1:]:
            docker("stop", "--time", "40", replica)
            assert json.loads(docker("inspect", replica))[0]["State"]["ExitCode"] == 0
        alone = _classified(first)
        time.sleep(10)
        assert _classified(first) - alone > 200
    finally:
        docker("stop", "--time", "40", load)
    result = json.loads(docker("logs", load).splitlines()[-1])
    docker("rm", "--force", load, *topology.containers("classification-api-more"))
    assert result["failures"] == []
    assert result["calls"] > 1000
    # A third each: calls take the connections in turn.
    assert min(shares) > 0.2 * sum(shares), shares


@contextmanager
def outage(topology: Topology, service: str) -> Iterator[float]:
    """A service is gone for at least OUTAGE_S."""
    with topology.stopped(service):
        gone = time.monotonic()
        yield gone
        time.sleep(max(0.0, OUTAGE_S - (time.monotonic() - gone)))


def refused(call: Callable[[], Any], reason: str) -> None:
    """The call says UNAVAILABLE, why, and when to try again, soon."""
    started = time.monotonic()
    with pytest.raises(UnavailableError) as caught:
        call()
    assert caught.value.reason == reason
    assert caught.value.retry_after_s
    assert time.monotonic() - started < ANSWER_S


def test_a_job_outlives_the_object_store(topology: Topology, client: Client, made: dict[str, Any]) -> None:
    operation = client.augmentation.AugmentImages(
        augmentation_pb2.AugmentImagesRequest(
            parent=PRODUCT, import_manifest=made["imported"].manifest, count=4000, seed=21
        )
    )
    running(client, operation)
    with outage(topology, "object-store"):
        refused(
            lambda: client.assembly.GetImport(assembly_pb2.GetImportRequest(name=made["imported"].name)),
            "OBJECT_STORE_UNAVAILABLE",
        )
        until(lambda: "waiting" in metadata_of(current(client, operation)).message, 60, "the job waits")
    assert not current(client, operation).done
    assert client.wait(operation, augmentation_pb2.AugmentedBatch, timeout_s=300).image_count == 4000


def test_a_job_outlives_postgres(topology: Topology, client: Client, made: dict[str, Any]) -> None:
    operation = client.augmentation.AugmentImages(
        augmentation_pb2.AugmentImagesRequest(
            parent=PRODUCT, import_manifest=made["imported"].manifest, count=4000, seed=22
        )
    )
    running(client, operation)
    get = operations_pb2.GetOperationRequest(name=operation.name)
    with outage(topology, "postgres"):
        refused(lambda: client.operations(operation.name).GetOperation(get), "DATABASE_UNAVAILABLE")
        refused(
            lambda: client.augmentation.AugmentImages(
                augmentation_pb2.AugmentImagesRequest(
                    parent=PRODUCT, import_manifest=made["imported"].manifest, count=1, seed=1
                )
            ),
            "DATABASE_UNAVAILABLE",
        )
        # What needs no job database goes on.
        assert client.assembly.GetImport(assembly_pb2.GetImportRequest(name=made["imported"].name)).name
    assert client.wait(operation, augmentation_pb2.AugmentedBatch, timeout_s=300).image_count == 4000


def test_a_job_outlives_triton(topology: Topology, client: Client, folder: Path, made: dict[str, Any]) -> None:
    (prompt,) = client.generation.ListPrompts(generation_pb2.ListPromptsRequest(parent=PRODUCT)).prompts
    before = classify(client, folder)
    operation = client.generation.GenerateImages(
        generation_pb2.GenerateImagesRequest(
            parent=PRODUCT, adapter=made["adapter"].name, count=40, steps=20, seed=5,
            text_to_image=generation_pb2.TextToImage(prompts=[prompt.name]),
        )
    )  # fmt: skip
    running(client, operation)
    with outage(topology, "triton"):
        refused(lambda: classify(client, folder), "TRITON_UNAVAILABLE")
        until(lambda: "waiting" in metadata_of(current(client, operation)).message, 60, "the job waits")
    assert not current(client, operation).done
    assert client.wait(operation, generation_pb2.Batch, timeout_s=300).image_count == 40

    def answered() -> Any:
        try:
            return classify(client, folder)
        except FlawsmithError:
            return None

    assert until(answered, 60, "Classify answers again").score == pytest.approx(before.score, abs=1e-6)


def test_containers_end_within_their_grace_period(topology: Topology) -> None:
    """SIGTERM to all of ours at once, as an upgrade does: exit code 0, none is killed, and all come back."""

    def stop(service: str) -> tuple[str, int, float, int]:
        grace, container = topology.grace_s(service), topology.container(service)
        started = time.monotonic()
        docker("stop", "--time", str(grace), container)
        return service, topology.inspect(service)["State"]["ExitCode"], time.monotonic() - started, grace

    with topology.fault(), ThreadPoolExecutor(len(OURS)) as pool:
        ended = list(pool.map(stop, OURS))
        assert [(service, code) for service, code, _, _ in ended if code != 0] == []
        assert [(service, took) for service, _, took, grace in ended if took >= grace] == []
        for service in OURS:
            docker("start", topology.container(service))
        for service in OURS:
            until(lambda name=service: topology.is_ready(name), 180, f"{service} is ready again", pause_s=1.0)


def test_nothing_is_logged_as_an_error_without_a_fault(topology: Topology) -> None:
    seen = {service: list(topology.logs(service)) for service in (*APIS, *WORKERS, "triton-reconciler", "prepare")}
    assert all(seen.values()), "logs are written"
    found: list[tuple[str, datetime, str]] = []
    for service, lines in seen.items():
        found += [
            (service, moment, line)
            for moment, line in lines
            if _is_error(line)
            and not topology.in_fault(moment)
            and not any(re.search(pattern, line) for pattern in ALLOWED_ERRORS)
        ]
    assert found == []


def _is_error(line: str) -> bool:
    try:
        event = json.loads(line)
    except ValueError:
        # Libraries and the interpreter write plain text.
        return bool(re.search(r"\b(ERROR|CRITICAL|FATAL)\b|^Traceback|^Fatal Python error|Segmentation fault", line))
    return isinstance(event, dict) and event.get("level") in ("error", "critical")


def _running_operation(client: Client, service: str) -> operations_pb2.Operation | None:
    for operation in client.list_operations(service, 5):
        if not operation.done and metadata_of(operation).state == State.STATE_RUNNING and metadata_of(operation).step:
            return operation
    return None


def _classified(container: str) -> int:
    """Calls of Classify that a container has answered, by its own metrics."""
    code = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9464/metrics', timeout=5).read().decode())"
    done = subprocess.run(
        ["docker", "exec", container, "python", "-c", code], capture_output=True, text=True, timeout=30, check=False
    )
    counts = re.findall(r'^flawsmith_requests_total\{code="OK",method="Classify".*\} (\S+)$', done.stdout, re.M)
    return int(sum(float(count) for count in counts))


def classify(client: Client, folder: Path) -> classification_pb2.ClassifyResponse:
    """The champion's answer for one image of the test split."""
    image = common_pb2.ImageSource(content=(folder / "test/20000.png").read_bytes())
    request = classification_pb2.ClassifyRequest(classifier=CLASSIFIER, image=image)
    answer: classification_pb2.ClassifyResponse = client.classification.Classify(request)
    return answer
