"""The containers of docker-compose.yml: found, stopped, started, asked and read through docker's command line."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

SERVICES = ("generation", "augmentation", "assembly", "classification")
APIS = tuple(f"{service}-api" for service in SERVICES)
WORKERS = tuple(f"{service}-worker" for service in SERVICES)
OURS = (*APIS, *WORKERS, "triton-reconciler", "triton")
OUTSIDE = ("object-store", "postgres")
AFTERMATH_S = 30.0
"""How long after a fault its errors may still be logged: connections are found dead when they are used again."""


def docker(*arguments: str, timeout_s: float = 120.0) -> str:
    """Standard output of a docker command. Raises CalledProcessError with its words."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode != 0:
        raise AssertionError(f"docker {' '.join(arguments)}: {done.stderr}")
    return done.stdout.strip()


@dataclass
class Topology:
    """A running project of docker compose.

    command: `docker compose` or `docker-compose` with its files and project. restarted: services that a test has
    restarted in the middle of a job. faults: when errors are expected in logs.
    """

    command: list[str]
    restarted: set[str] = field(default_factory=set)
    faults: list[tuple[datetime, datetime]] = field(default_factory=list)

    def compose(self, *arguments: str, timeout_s: float = 300.0) -> str:
        """Standard output of a compose command."""
        done = subprocess.run(
            [*self.command, *arguments], capture_output=True, text=True, timeout=timeout_s, check=False
        )
        assert done.returncode == 0, f"compose {' '.join(arguments)}: {done.stderr}"
        return done.stdout.strip()

    def containers(self, service: str) -> list[str]:
        """Container ids of a service, stopped ones too."""
        project = self.command[self.command.index("--project-name") + 1]
        labels = (f"label=com.docker.compose.project={project}", f"label=com.docker.compose.service={service}")
        filters = [word for label in labels for word in ("--filter", label)]
        return docker("ps", "--all", "--quiet", "--no-trunc", *filters).split()

    def container(self, service: str) -> str:
        """The container of a service that has one."""
        (container,) = self.containers(service)
        return container

    def inspect(self, service: str) -> dict[str, Any]:
        """What docker knows of a service's container."""
        found: dict[str, Any] = json.loads(docker("inspect", self.container(service)))[0]
        return found

    def is_ready(self, service: str) -> bool:
        """What the container's own health check says, asked now. Triton's gRPC port answers it itself."""
        address, name = ("127.0.0.1:8001", "") if service == "triton" else ("127.0.0.1:7110", "readiness")
        command = ["python3", "-m", "flawsmith.common.health", address, name]
        done = subprocess.run(
            ["docker", "exec", self.container(service), *command], capture_output=True, timeout=30, check=False
        )
        return done.returncode == 0

    def restart(self, service: str) -> None:
        """Stop a container within its grace period and start it again, as a node's update does."""
        with self.fault():
            docker("restart", "--time", str(self.grace_s(service)), self.container(service))
        self.restarted.add(service)

    def grace_s(self, service: str) -> int:
        """The grace period that docker-compose.yml gives a service."""
        return int(self.inspect(service)["Config"].get("StopTimeout") or 10)

    @contextlib.contextmanager
    def fault(self) -> Iterator[None]:
        """A window in which errors are logged with reason."""
        begin = datetime.now(UTC) - timedelta(seconds=1)
        try:
            yield
        finally:
            self.faults.append((begin, datetime.now(UTC) + timedelta(seconds=AFTERMATH_S)))

    @contextlib.contextmanager
    def stopped(self, service: str) -> Iterator[None]:
        """A service is gone, its name too."""
        container = self.container(service)
        with self.fault():
            docker("stop", "--time", str(self.grace_s(service)), container)
            try:
                yield
            finally:
                docker("start", container)

    def logs(self, service: str) -> Iterator[tuple[datetime, str]]:
        """Lines of all containers of a service, with their times."""
        for container in self.containers(service):
            done = subprocess.run(
                ["docker", "logs", "--timestamps", container],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=True,
            )  # fmt: skip
            for line in done.stdout.splitlines():
                stamp, _, text = line.partition(" ")
                with contextlib.suppress(ValueError):
                    # Nanoseconds are more than fromisoformat takes.
                    yield datetime.fromisoformat(stamp[:26].rstrip("Z") + "+00:00"), text

    def in_fault(self, moment: datetime) -> bool:
        """Whether a fault was injected around a moment."""
        return any(begin <= moment <= end for begin, end in self.faults)


def until(condition: Callable[[], Any], timeout_s: float, what: str, pause_s: float = 0.3) -> Any:
    """The condition's first true value. Fails after the timeout."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:.0f} s"
        time.sleep(pause_s)
