"""The life of our processes: readiness, structured logs, and an orderly end in the middle of work."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.longrunning import operations_pb2
from google.protobuf import duration_pb2

from flawsmith.assembly.v1 import assembly_pb2
from flawsmith.augmentation.v1 import augmentation_pb2
from flawsmith.client import Client, metadata_of
from flawsmith.common import jobs
from flawsmith.common.health import LIVENESS, READINESS, is_serving
from flawsmith.common.settings import ObjectStoreSettings, PeerSettings, Settings
from flawsmith.drawing.sample_product import write_sample_dataset
from flawsmith.local.processes import Process, free_port
from flawsmith.local.servers import object_store_server

PRODUCT = "products/processes"
GRACE_S = 10.0


class Started:
    """Processes of assembly and augmentation; nothing else is needed for a job."""

    def __init__(self, folder: Path, store: str) -> None:
        self.folder = folder
        self.peers = PeerSettings(assembly=f"127.0.0.1:{free_port()}", augmentation=f"127.0.0.1:{free_port()}")
        self.health: dict[str, str] = {}
        self.processes: dict[str, Process] = {}
        self.servers: list[Process] = []
        self._store = ObjectStoreSettings(endpoint=store)

    def start(self, service: str, role: str) -> Process:
        name = f"{service}-{role}"
        self.health.setdefault(name, f"127.0.0.1:{free_port()}")
        process = Process(
            name,
            [sys.executable, "-m", f"flawsmith.{service}", role],
            log=self.folder / f"{name}.log",
            environment={
                "FLAWSMITH_OBJECT_STORE__ENDPOINT": self._store.endpoint,
                "FLAWSMITH_STATE_DIR": str(self.folder),
                "FLAWSMITH_RPC__LISTEN": getattr(self.peers, service),
                "FLAWSMITH_RPC__HEALTH_LISTEN": self.health[name],
                "FLAWSMITH_JOBS__EXECUTOR_ID": name,
                "FLAWSMITH_JOBS__HEARTBEAT_S": "1",
                "FLAWSMITH_PEERS__ASSEMBLY": self.peers.assembly,
                "FLAWSMITH_PEERS__AUGMENTATION": self.peers.augmentation,
            },
        )
        process.start()
        self.processes[name] = process
        return process

    def start_object_store(self) -> None:
        self.servers.append(object_store_server(self._store, self.folder / "objects", self.folder / "s3.log"))

    def until_ready(self, name: str) -> None:
        self.processes[name].wait_until(lambda: is_serving(self.health[name], READINESS), 60)

    def stop(self) -> None:
        for process in (*self.processes.values(), *self.servers):
            process.stop()


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    for service in ("assembly", "augmentation"):
        jobs.migrate(service, Settings(state_dir=tmp_path))
    started = Started(tmp_path, f"127.0.0.1:{free_port()}")
    yield started
    started.stop()


def lines(process: Process) -> list[dict[str, object]]:
    """Everything that a process wrote; each line must be a JSON object."""
    return [json.loads(line) for line in process.log.read_text().splitlines()]


def test_a_life_without_faults_and_an_end_in_the_middle_of_a_step(started: Started) -> None:
    names = [(service, role) for service in ("assembly", "augmentation") for role in ("api", "worker")]
    for service, role in names:
        started.start(service, role)
    for name, process in started.processes.items():
        process.wait_until(lambda name=name: is_serving(started.health[name], LIVENESS), 60)  # type: ignore[misc]
    # Alive without the object store, but not ready.
    time.sleep(1.0)
    assert not any(is_serving(address, READINESS) for address in started.health.values())
    started.start_object_store()
    for name in started.processes:
        started.until_ready(name)

    photos = started.folder / "photos"
    write_sample_dataset(
        photos, seed=4, train_normal=8, train_defect=4, test_normal=3, test_defect=3, height=64, width=64
    )
    with Client(started.peers) as client:
        imported = client.wait(
            client.assembly.ImportImages(
                assembly_pb2.ImportImagesRequest(parent=PRODUCT, import_id="i", prefix=client.upload_folder(photos))
            ),
            assembly_pb2.Import,
        )
        operation = client.augmentation.AugmentImages(
            augmentation_pb2.AugmentImagesRequest(
                parent=PRODUCT, batch_id="b", import_manifest=imported.manifest, count=2000, seed=1
            )
        )
        request = operations_pb2.WaitOperationRequest(
            name=operation.name, timeout=duration_pb2.Duration(nanos=300_000_000)
        )
        while metadata_of(operation).step == 0:
            operation = client.operations(operation.name).WaitOperation(request)
        worker = started.processes["augmentation-worker"]
        asked = time.monotonic()
        assert worker.stop() == 0
        assert time.monotonic() - asked < GRACE_S
        assert not operation.done
        started.start("augmentation", "worker")
        # An API that stalls, as on a machine that sleeps, is waited for like one that restarts.
        api = started.processes["augmentation-api"]
        api.send(signal.SIGSTOP)
        waking = threading.Timer(4.0, api.send, [signal.SIGCONT])
        waking.start()
        with Client(started.peers, timeout_s=1.5) as hasty:
            assert hasty.wait(operation, augmentation_pb2.AugmentedBatch, timeout_s=120).image_count == 2000
        waking.join()

        for name in ("assembly-worker", "augmentation-worker", "augmentation-api", "assembly-api"):
            asked = time.monotonic()
            started.processes[name].send(signal.SIGTERM)
            assert started.processes[name].stop() == 0, name
            assert time.monotonic() - asked < GRACE_S, name
            wrote = lines(started.processes[name])
            assert {line["process"] for line in wrote} == {name}
            assert not [line for line in wrote if line["level"] in ("error", "critical")]
