"""Brings docker-compose.yml up once a session and takes it down again.

STAND_INS=1: the outside images are the stand-ins of tests/docker/stand-ins.yml. The images are built before (`make
test-docker` does). KEEP=1: the containers are left for a look, and used again.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flawsmith.client import Client
from flawsmith.common.settings import PeerSettings
from tests.docker.topology import OURS, Topology, until

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent
PROJECT = "flawsmith-test"
DOWN = ["--profile more --profile load down --volumes --remove-orphans"]


def _runs(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without a Docker engine there is nothing to test here."""
    here = [item for item in items if FOLDER in item.path.parents]
    if not here:
        return
    reason = ""
    if not _runs("docker", "info"):
        reason = "no Docker engine answers: install one and start it (tests/docker/engine.sh does on Debian)"
    elif not (_runs("docker", "compose", "version") or shutil.which("docker-compose")):
        reason = "neither `docker compose` nor `docker-compose` is installed"
    for item in here:
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def docker_compose_command() -> str:
    """Compose v2 where it is, else 1.29."""
    return "docker compose" if _runs("docker", "compose", "version") else "docker-compose"


@pytest.fixture(scope="session")
def docker_compose_file() -> list[str]:
    """The real topology, what the tests change, and the stand-ins where they are asked for."""
    files = [ROOT / "docker-compose.yml", FOLDER / "compose.test.yml"]
    if os.environ.get("STAND_INS"):
        files.append(FOLDER / "stand-ins.yml")
    return [str(file) for file in files]


@pytest.fixture(scope="session")
def docker_compose_project_name() -> str:
    """Not the project of somebody who uses the platform on this machine; the ports are the same."""
    return PROJECT


@pytest.fixture(scope="session")
def docker_setup() -> list[str]:
    """What a broken-off session left is taken down first, unless it is to be looked at again."""
    return [*([] if os.environ.get("KEEP") else DOWN), "up --detach --no-build"]


@pytest.fixture(scope="session")
def docker_cleanup() -> list[str]:
    """Everything goes, its volumes too."""
    return [] if os.environ.get("KEEP") else DOWN


@pytest.fixture(scope="session")
def topology(
    docker_services: Any, docker_compose_command: str, docker_compose_file: list[str], docker_compose_project_name: str
) -> Topology:
    """The running topology; everything of ours is ready."""
    files = [word for file in docker_compose_file for word in ("--file", file)]
    topology = Topology([*docker_compose_command.split(), *files, "--project-name", docker_compose_project_name])
    for service in OURS:
        until(lambda name=service: topology.is_ready(name), 240, f"{service} is ready", pause_s=1.0)
    return topology


@pytest.fixture
def client(topology: Topology) -> Iterator[Client]:
    """The installed client at the published ports."""
    with Client(PeerSettings(), principal="tester", outage_patience_s=120) as client:
        yield client
