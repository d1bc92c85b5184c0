"""Durable jobs with real worker processes that are really killed, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from flawsmith.common.checkpoints import Checkpoints, forget_ended
from flawsmith.common.errors import InvalidArgumentError, NotFoundError, ResourceExhaustedError, UnavailableError
from flawsmith.common.jobs import JobClient, JobState, migrate
from flawsmith.common.object_store import ObjectStore
from flawsmith.common.settings import JobSettings, ObjectStoreSettings, Settings
from flawsmith.local.processes import Process

sys.path.insert(0, str(Path(__file__).parent))
from job_worker import TraceSpec

StartWorker = Callable[[str], Process]


@pytest.fixture(params=["sqlite", "postgres"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    url = None
    if request.param == "postgres":
        import sqlalchemy as sa

        server = request.getfixturevalue("postgres_url")
        name = f"jobs_{tmp_path.name.replace('-', '_').replace('[', '_').replace(']', '_').lower()}"
        engine = sa.create_engine(
            sa.make_url(server).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT"
        )
        with engine.connect() as connection:
            connection.execute(sa.text(f'CREATE DATABASE "{name}"'))
        engine.dispose()
        url = sa.make_url(server).set(database=name).render_as_string(hide_password=False)
    jobs = JobSettings(database_url=url, heartbeat_s=0.5, silent_after_s=4.0, max_queued=5, outage_patience_s=60.0)
    return Settings(state_dir=tmp_path, jobs=jobs)


@pytest.fixture
def start_worker(
    settings: Settings, object_store_settings: ObjectStoreSettings, tmp_path: Path
) -> Iterator[StartWorker]:
    migrate("tests", settings)
    running: list[Process] = []

    def start(executor: str) -> Process:
        environment = {
            "FLAWSMITH_STATE_DIR": str(tmp_path),
            "FLAWSMITH_OBJECT_STORE__ENDPOINT": object_store_settings.endpoint,
            "FLAWSMITH_JOBS__HEARTBEAT_S": str(settings.jobs.heartbeat_s),
            "FLAWSMITH_JOBS__SILENT_AFTER_S": str(settings.jobs.silent_after_s),
        }
        if settings.jobs.database_url:
            environment["FLAWSMITH_JOBS__DATABASE_URL"] = settings.jobs.database_url
        command = [sys.executable, str(Path(__file__).with_name("job_worker.py")), executor]
        process = Process(executor, command, log=tmp_path / f"{executor}.log", environment=environment)
        process.start()
        running.append(process)
        return process

    yield start
    for process in running:
        process.send(signal.SIGCONT)
        process.kill()


@pytest.fixture
async def client(settings: Settings, start_worker: StartWorker) -> AsyncIterator[JobClient]:
    client = JobClient("tests", settings)
    yield client
    client.close()


async def begin(client: JobClient, kind: str, spec: BaseModel, request_id: str = "") -> str:
    operation = client.operation_id("tester", request_id)
    await client.start(operation, kind, spec, target="products/x/things/y", principal="tester", waits=False)
    return operation


async def ended(client: JobClient, operation: str, timeout_s: float = 60.0) -> JobState:
    deadline = time.monotonic() + timeout_s
    while not (state := await client.get(operation)).done:
        assert time.monotonic() < deadline, state
        await asyncio.sleep(0.1)
    return state


async def until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


def lines(folder: Path, word: str) -> list[list[str]]:
    path = folder / "trace"
    return [line.split() for line in path.read_text().splitlines() if line.startswith(word)] if path.exists() else []


async def test_a_job_runs_and_reports_progress(client: JobClient, start_worker: StartWorker, tmp_path: Path) -> None:
    operation = await begin(client, "trace", TraceSpec(folder=tmp_path))
    queued = await client.get(operation)
    assert queued.state == "queued"
    assert (queued.kind, queued.target, queued.principal) == ("trace", "products/x/things/y", "tester")
    start_worker("w0")
    state = await ended(client, operation)
    assert state.state == "succeeded"
    assert state.result is not None
    assert [entry.split()[0] for entry in state.result["done"]] == ["0", "1", "2"]
    assert (state.stage, state.step, state.total) == ("trace", 2, 3)


async def test_a_killed_worker_repeats_only_the_step_that_was_cut_off(
    client: JobClient, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = start_worker("w0")
    operation = await begin(client, "trace", TraceSpec(folder=tmp_path, seconds=1.5))
    await until(lambda: len(lines(tmp_path, "begin")) == 2)
    worker.kill()
    start_worker("w0")
    state = await ended(client, operation)
    assert state.state == "succeeded"
    assert [line[1] for line in lines(tmp_path, "begin")] == ["0", "1", "1", "2"]
    assert [line[1] for line in lines(tmp_path, "end")] == ["0", "1", "2"]


async def test_another_worker_takes_over_from_one_that_never_returns(
    client: JobClient, start_worker: StartWorker, tmp_path: Path
) -> None:
    lost = start_worker("w0")
    operation = await begin(client, "trace", TraceSpec(folder=tmp_path, seconds=1.5))
    await until(lambda: len(lines(tmp_path, "begin")) == 2)
    lost.kill()
    start_worker("w1")
    state = await ended(client, operation)
    assert state.state == "succeeded"
    assert [line[1] for line in lines(tmp_path, "end")] == ["0", "1", "2"]


async def test_a_zombie_changes_nothing(client: JobClient, start_worker: StartWorker, tmp_path: Path) -> None:
    zombie = start_worker("w0")
    operation = await begin(client, "trace", TraceSpec(folder=tmp_path, seconds=2.0))
    await until(lambda: len(lines(tmp_path, "begin")) == 1)
    zombie_pid = str(zombie.pid)
    zombie.send(signal.SIGSTOP)
    start_worker("w1")
    state = await ended(client, operation)
    assert state.result is not None
    assert all(zombie_pid not in entry for entry in state.result["done"])
    zombie.send(signal.SIGCONT)
    await until(lambda: ["end", "0", zombie_pid] in lines(tmp_path, "end"))
    await asyncio.sleep(2.0)
    after = await client.get(operation)
    assert after.result == state.result
    # The zombie learns that its step came late, and begins no further one.
    assert [line[1] for line in lines(tmp_path, "begin") if line[2] == zombie_pid] == ["0"]


async def test_cancel_stops_a_running_step(client: JobClient, start_worker: StartWorker, tmp_path: Path) -> None:
    start_worker("w0")
    operation = await begin(client, "trace", TraceSpec(folder=tmp_path, seconds=120.0))
    await until(lambda: len(lines(tmp_path, "begin")) == 1)
    started = time.monotonic()
    await client.cancel(operation)
    assert (await ended(client, operation)).state == "cancelled"
    follower = await begin(client, "trace", TraceSpec(folder=tmp_path, steps=1))
    assert (await ended(client, follower)).state == "succeeded"  # the worker is free again
    assert time.monotonic() - started < 10
    assert lines(tmp_path, "end")[0][1] == "0"


async def test_the_same_request_id_makes_one_job(client: JobClient, start_worker: StartWorker, tmp_path: Path) -> None:
    first = await begin(client, "trace", TraceSpec(folder=tmp_path), "r1")
    again = await begin(client, "trace", TraceSpec(folder=tmp_path), "r1")
    assert first == again
    with pytest.raises(InvalidArgumentError) as caught:
        await begin(client, "trace", TraceSpec(folder=tmp_path, steps=2), "r1")
    assert caught.value.reason == "REQUEST_ID_REUSED"
    start_worker("w0")
    assert (await ended(client, first)).state == "succeeded"
    assert await begin(client, "trace", TraceSpec(folder=tmp_path), "r1") == first
    assert len(lines(tmp_path, "begin")) == 3
    assert len(await client.list(limit=10, offset=0)) == 1


class EarlierTraceSpec(BaseModel):
    """As a version had it that knew fewer fields."""

    folder: Path


async def test_a_request_id_of_an_earlier_version_is_known(client: JobClient, tmp_path: Path) -> None:
    first = await begin(client, "trace", EarlierTraceSpec(folder=tmp_path), "r1")
    assert await begin(client, "trace", TraceSpec(folder=tmp_path), "r1") == first
    for kind, other in (
        ("trace", TraceSpec(folder=tmp_path, steps=2)),
        ("trace", TraceSpec(folder=tmp_path / "other")),
        ("fail", TraceSpec(folder=tmp_path)),
    ):
        with pytest.raises(InvalidArgumentError) as caught:
            await begin(client, kind, other, "r1")
        assert caught.value.reason == "REQUEST_ID_REUSED"
    assert len(await client.list(limit=10, offset=0)) == 1


async def test_the_queue_is_bounded(client: JobClient, tmp_path: Path) -> None:
    for _ in range(5):
        await begin(client, "trace", TraceSpec(folder=tmp_path))
    with pytest.raises(ResourceExhaustedError) as caught:
        await begin(client, "trace", TraceSpec(folder=tmp_path))
    assert caught.value.reason == "QUEUE_FULL"
    assert caught.value.retry_after_s
    newest = (await client.list(limit=1, offset=0))[0]
    assert (await client.get(newest.id)).queue_position == 4


async def test_domain_errors_are_kept_and_others_say_nothing(
    client: JobClient, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker("w0")
    failing = await begin(client, "trace", TraceSpec(folder=tmp_path, fail_at=1))
    unforeseen = await begin(client, "broken", TraceSpec(folder=tmp_path))
    state = await ended(client, failing)
    assert state.state == "failed"
    assert state.error is not None
    assert (state.error.code, state.error.reason) == ("INVALID_ARGUMENT", "TRACE_FAILED")
    state = await ended(client, unforeseen)
    assert state.error is not None
    assert state.error.code == "INTERNAL"
    assert "secret" not in state.error.message


async def test_a_job_waits_while_a_dependency_is_down(
    client: JobClient, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker("w0")
    operation = await begin(client, "outage", TraceSpec(folder=tmp_path))
    deadline = time.monotonic() + 20
    while "waiting" not in (await client.get(operation)).message:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
    (tmp_path / "up").touch()
    assert (await ended(client, operation)).state == "succeeded"


@pytest.fixture
async def keys(client: JobClient, store: ObjectStore) -> AsyncIterator[Callable[[str], list[str]]]:
    """Keys of an operation's checkpoints; an API server looks after them meanwhile."""
    looking = asyncio.create_task(forget_ended(store, client))
    yield lambda operation: list(store.list_keys(f"checkpoints/{operation}/"))
    looking.cancel()


@pytest.mark.parametrize(("fail_at", "state"), [(-1, "succeeded"), (2, "failed")])
async def test_no_checkpoint_outlives_a_job(
    client: JobClient, start_worker: StartWorker, keys: Callable[[str], list[str]], tmp_path: Path,
    fail_at: int, state: str,
) -> None:  # fmt: skip
    start_worker("w0")
    spec = TraceSpec(folder=tmp_path, seconds=0.5, fail_at=fail_at)
    operation = await begin(client, "checkpointed", spec)
    await until(lambda: len(keys(operation)) == 1)
    assert (await ended(client, operation)).state == state
    await until(lambda: not keys(operation))


@pytest.mark.parametrize("killed", [False, True])
async def test_no_checkpoint_outlives_a_cancelled_job(
    client: JobClient, start_worker: StartWorker, keys: Callable[[str], list[str]], tmp_path: Path, killed: bool
) -> None:
    worker = start_worker("w0")
    operation = await begin(client, "checkpointed", TraceSpec(folder=tmp_path, seconds=0.5, steps=240))
    await until(lambda: bool(keys(operation)))
    if killed:  # nothing of the job runs any more
        worker.kill()
    await client.cancel(operation)
    assert (await ended(client, operation)).state == "cancelled"
    await asyncio.sleep(2.0)  # a step learns of it within a second, and may write another one until then
    await until(lambda: not keys(operation))


async def test_a_job_goes_on_from_the_checkpoint_of_a_killed_worker(
    client: JobClient, start_worker: StartWorker, keys: Callable[[str], list[str]], tmp_path: Path
) -> None:
    worker = start_worker("w0")
    operation = await begin(client, "checkpointed", TraceSpec(folder=tmp_path, seconds=1.0, steps=4))
    await until(lambda: keys(operation) == [f"checkpoints/{operation}/00000002.pt"])  # the one before is gone
    worker.kill()
    await asyncio.sleep(2.0)  # time enough to forget it, were the job taken for ended
    begun = len(lines(tmp_path, "begin"))
    start_worker("w0")
    assert (await ended(client, operation)).state == "succeeded"
    assert [line[1] for line in lines(tmp_path, "begin")[begun:]] == ["2", "3"]
    await until(lambda: not keys(operation))


async def test_checkpoints_of_unknown_operations_stay(
    client: JobClient, keys: Callable[[str], list[str]], store: ObjectStore, tmp_path: Path
) -> None:
    (tmp_path / "checkpoint").write_text("1")
    Checkpoints(store, "tests-000").keep(tmp_path / "checkpoint", 1)
    await asyncio.sleep(2.0)
    assert keys("tests-000")
    Checkpoints(store, "tests-000").forget()
    assert not keys("tests-000")


async def test_unknown_operations_are_not_found(client: JobClient) -> None:
    with pytest.raises(NotFoundError):
        await client.get("tests-000")
    with pytest.raises(NotFoundError):
        await client.cancel("tests-000")


async def test_a_database_that_is_down_is_unavailable(tmp_path: Path) -> None:
    jobs = JobSettings(database_url="postgresql://nobody@127.0.0.1:9/none")
    client = JobClient("tests", Settings(state_dir=tmp_path, jobs=jobs))
    with pytest.raises(UnavailableError) as caught:
        await client.get("tests-000")
    assert caught.value.reason == "DATABASE_UNAVAILABLE"
