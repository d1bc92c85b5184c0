"""Dependencies that go away: calls say so and when to try again, jobs wait and go on, and nothing needs a restart."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flawsmith.assembly.v1 import assembly_pb2
from flawsmith.augmentation.v1 import augmentation_pb2
from flawsmith.classification.v1 import classification_pb2
from flawsmith.client import Client, metadata_of
from flawsmith.common.errors import FlawsmithError, UnavailableError
from flawsmith.common.statuses import error_of
from flawsmith.common.v1 import common_pb2
from flawsmith.drawing.sample_product import write_sample_dataset
from flawsmith.local.platform import LocalPlatform
from flawsmith.local.processes import Process

PRODUCT = "products/outage"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outage")
    write_sample_dataset(
        folder, seed=4, train_normal=8, train_defect=4, test_normal=3, test_defect=3, height=64, width=64
    )
    return folder


@pytest.fixture(scope="module")
def classifier(platform: LocalPlatform, folder: Path) -> Iterator[str]:
    """A deployed classifier."""
    with Client(platform.settings.peers, principal="tester") as client:
        imported = client.wait(
            client.assembly.ImportImages(
                assembly_pb2.ImportImagesRequest(parent=PRODUCT, import_id="i", prefix=client.upload_folder(folder))
            ),
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
        version = client.wait(
            client.classification.TrainClassifier(
                classification_pb2.TrainClassifierRequest(
                    parent=f"{PRODUCT}/classifiers/c", dataset_manifest=dataset.manifest, steps=2, height=64, width=64
                )
            ),
            classification_pb2.ClassifierVersion,
        )
        client.wait(
            client.classification.DeployClassifier(classification_pb2.DeployClassifierRequest(name=version.name)),
            classification_pb2.Deployment,
        )
    return f"{PRODUCT}/classifiers/c"


def freeze(process: Process) -> None:
    """Stops a process, and waits until it is: on a busy machine its threads answer calls for a while yet."""
    process.send(signal.SIGSTOP)
    states = Path(f"/proc/{process.pid}/task").glob("*/stat")
    deadline = time.monotonic() + 10
    for state in states:
        while state.read_text().rpartition(")")[2].split()[0] != "T":
            assert time.monotonic() < deadline, "still running"
            time.sleep(0.01)


def refused(call: Callable[[], Any], reason: str) -> None:
    started = time.monotonic()
    with pytest.raises(UnavailableError) as caught:
        call()
    assert caught.value.reason == reason
    assert caught.value.retry_after_s
    assert time.monotonic() - started < 30


def answered(call: Callable[[], Any], timeout_s: float = 60) -> Any:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return call()
        except FlawsmithError:
            assert time.monotonic() < deadline
            time.sleep(0.5)


def test_without_triton_classify_is_unavailable_and_comes_back_by_itself(
    platform: LocalPlatform, client: Client, folder: Path, classifier: str
) -> None:
    image = common_pb2.ImageSource(content=(folder / "test/20000.png").read_bytes())
    request = classification_pb2.ClassifyRequest(classifier=classifier, image=image)

    def classify() -> classification_pb2.ClassifyResponse:
        return client.classification.Classify(request)

    before = classify()
    platform.processes["triton"].kill()
    refused(classify, "TRITON_UNAVAILABLE")
    # A camera's stream outlives it: every frame is answered, each with the reason.
    streamed = list(client.classification.ClassifyStream(iter([request] * 3)))
    assert [error_of(answer.error).reason for answer in streamed] == ["TRITON_UNAVAILABLE"] * 3
    assert error_of(streamed[0].error).retry_after_s
    platform.processes["triton"].start()
    # The new server has loaded nothing; its reconciler sees that.
    assert answered(classify, 90).score == pytest.approx(before.score, abs=1e-6)


@pytest.mark.parametrize("name", ["triton", "object-store"])
def test_calls_on_a_server_that_hangs_are_unavailable(
    name: str, platform: LocalPlatform, client: Client, folder: Path, classifier: str
) -> None:
    image = common_pb2.ImageSource(content=(folder / "test/20000.png").read_bytes())

    def call() -> Any:
        if name == "triton":
            return client.classification.Classify(
                classification_pb2.ClassifyRequest(classifier=classifier, image=image)
            )
        return client.assembly.GetImport(assembly_pb2.GetImportRequest(name=f"{PRODUCT}/imports/i"))

    answered(call)
    freeze(platform.processes[name])
    try:
        refused(call, {"triton": "TRITON_UNAVAILABLE", "object-store": "OBJECT_STORE_UNAVAILABLE"}[name])
    finally:
        platform.processes[name].send(signal.SIGCONT)
    answered(call)


def test_without_the_object_store_calls_are_unavailable_and_jobs_wait(
    platform: LocalPlatform, client: Client, classifier: str
) -> None:
    imported = client.assembly.GetImport(assembly_pb2.GetImportRequest(name=f"{PRODUCT}/imports/i"))
    request = augmentation_pb2.AugmentImagesRequest(
        parent=PRODUCT, batch_id="b1", import_manifest=imported.manifest, count=3000, seed=1
    )
    operation = client.augmentation.AugmentImages(request)
    operations = client.operations(operation.name)
    deadline = time.monotonic() + 60
    while metadata_of(operation).step < 16:
        assert time.monotonic() < deadline
        operation = operations.WaitOperation(_wait_request(operation.name))
    platform.processes["object-store"].kill()
    refused(
        lambda: client.assembly.GetImport(assembly_pb2.GetImportRequest(name=f"{PRODUCT}/imports/i")),
        "OBJECT_STORE_UNAVAILABLE",
    )
    while "waiting" not in metadata_of(operation).message:
        assert time.monotonic() < deadline
        operation = operations.WaitOperation(_wait_request(operation.name))
    assert not operation.done
    platform.processes["object-store"].start()
    batch = client.wait(operation, augmentation_pb2.AugmentedBatch, timeout_s=200)
    assert batch.image_count == 3000
    assert answered(lambda: client.assembly.GetImport(assembly_pb2.GetImportRequest(name=f"{PRODUCT}/imports/i")))


def test_a_service_that_is_down_is_named(platform: LocalPlatform, client: Client) -> None:
    platform.processes["augmentation-api"].stop()
    with pytest.raises(UnavailableError, match="flawsmith doctor") as caught:
        client.augmentation.ListMethods(augmentation_pb2.ListMethodsRequest())
    assert caught.value.reason == "SERVICE_UNREACHABLE"
    platform.start_process("augmentation", "api")
    methods = answered(lambda: client.augmentation.ListMethods(augmentation_pb2.ListMethodsRequest())).methods
    assert "memseg" in [method.name for method in methods]


def _wait_request(name: str) -> Any:
    from google.longrunning import operations_pb2
    from google.protobuf import duration_pb2

    return operations_pb2.WaitOperationRequest(name=name, timeout=duration_pb2.Duration(nanos=300_000_000))
