"""The one-shot that makes what a platform needs, against a real S3 server and a real PostgreSQL."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from flawsmith.common.desired_models import DesiredModels
from flawsmith.common.object_store import ObjectStore
from flawsmith.common.resources import Resources
from flawsmith.common.settings import SERVICES, ObjectStoreSettings
from flawsmith.generation.catalog import installed_base_model
from flawsmith.generation.serving import triton_model
from flawsmith.local.processes import Process, free_port
from flawsmith.local.servers import object_store_server


@pytest.fixture
def database_url(postgres_url: str) -> str:
    """An empty database."""
    server = sa.make_url(postgres_url).set(drivername="postgresql+psycopg")
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text("DROP DATABASE IF EXISTS prepared"))
        connection.execute(sa.text("CREATE DATABASE prepared"))
    engine.dispose()
    return server.set(drivername="postgresql", database="prepared").render_as_string(hide_password=False)


def prepare(folder: Path, endpoint: str, database_url: str, seconds: float) -> Process:
    environment = {
        "FLAWSMITH_OBJECT_STORE__ENDPOINT": endpoint,
        "FLAWSMITH_JOBS__DATABASE_URL": database_url,
        "FLAWSMITH_STATE_DIR": str(folder),
    }
    command = [sys.executable, "-m", "flawsmith.prepare", str(seconds)]
    process = Process("prepare", command, log=folder / "prepare.log", environment=environment)
    process.start()
    return process


def exit_code(process: Process, timeout_s: float = 60) -> int | None:
    deadline = time.monotonic() + timeout_s
    while process.pid is not None:
        assert time.monotonic() < deadline, process.tail()
        time.sleep(0.1)
    return process.stop()


@pytest.fixture
def endpoint() -> str:
    return f"127.0.0.1:{free_port()}"


@pytest.fixture
def late_store(endpoint: str, tmp_path: Path) -> Iterator[list[Process]]:
    """Stops the S3 server that a test starts."""
    started: list[Process] = []
    yield started
    for process in started:
        process.stop()


def test_it_waits_prepares_everything_and_changes_nothing_when_run_again(
    tmp_path: Path, endpoint: str, database_url: str, late_store: list[Process]
) -> None:
    waiting = prepare(tmp_path, endpoint, database_url, 60)
    while "waiting" not in waiting.tail():
        assert waiting.pid is not None, waiting.tail()
        time.sleep(0.1)
    settings = ObjectStoreSettings(endpoint=endpoint)
    late_store.append(object_store_server(settings, tmp_path / "objects", tmp_path / "s3.log"))
    assert exit_code(waiting) == 0, waiting.tail()

    store = ObjectStore(settings)
    mini = installed_base_model(Resources(store), "mini")
    assert mini is not None
    assert store.exists("triton/diffusion/config.pbtxt")
    assert store.exists("triton/diffusion/1/model.py")
    served = triton_model("mini", mini.sha256)
    assert DesiredModels(store, "triton").wanted() == {served}
    assert store.exists(f"triton/{served}/config.pbtxt")
    engine = sa.create_engine(sa.make_url(database_url).set(drivername="postgresql+psycopg"))
    for service in SERVICES:
        tables = sa.inspect(engine).get_table_names(schema=f"flawsmith_{service}")
        assert {"operation_progress", "worker_heartbeats", "workflow_status"} <= set(tables)
    engine.dispose()

    before = sorted(store.list_keys(""))
    assert exit_code(prepare(tmp_path, endpoint, database_url, 60)) == 0
    assert sorted(store.list_keys("")) == before


@pytest.mark.parametrize("missing", ["object store", "database"])
def test_what_does_not_answer_in_time_is_named(
    missing: str, tmp_path: Path, object_store_settings: ObjectStoreSettings, endpoint: str
) -> None:
    nobody = f"postgresql://nobody@127.0.0.1:{free_port()}/none"
    process = prepare(tmp_path, endpoint if missing == "object store" else object_store_settings.endpoint, nobody, 2)
    assert exit_code(process) == 1
    reason = {"object store": "OBJECT_STORE_UNAVAILABLE", "database": "DATABASE_UNAVAILABLE"}[missing]
    assert process.tail().splitlines()[-1].startswith(reason)
