"""The platform on one machine: S3 server, Triton, and four services with their workers, as local processes."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO

from flawsmith.common import jobs
from flawsmith.common.errors import FailedPreconditionError
from flawsmith.common.health import is_serving
from flawsmith.common.object_store import ObjectStore
from flawsmith.common.settings import (
    SERVICES,
    JobSettings,
    ObjectStoreSettings,
    PeerSettings,
    Settings,
    TritonSettings,
    load_settings,
)
from flawsmith.local.processes import Process, accepts_connections, free_port
from flawsmith.local.servers import object_store_server, triton_server
from flawsmith.prepare import publish_models

LOCAL_PRINCIPAL = "local"
_READY_TIMEOUT_S = 120.0


class LocalPlatform:
    """Starts and stops everything.

    state_dir: objects, job databases, logs. free_ports: take any free ports instead of the default ones, so that
    several platforms run side by side. fresh: forget what a former platform left in the folder.
    database_url: Postgres instead of SQLite files. triton_settings: with several addresses (`127.0.0.1:8001,
    127.0.0.2:8001`) there is a Triton at each, with a reconciler of its own, as in a cluster. services: those that are
    started; without generation Triton loads no base model. say: shows progress.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        free_ports: bool = False,
        fresh: bool = False,
        database_url: str | None = None,
        triton_settings: TritonSettings | None = None,
        jobs_settings: JobSettings | None = None,
        services: tuple[str, ...] = SERVICES,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.state_dir = state_dir.absolute()
        self._say = say
        self._fresh = fresh
        self._services = services
        base = load_settings()
        job_settings, triton = jobs_settings or base.jobs, triton_settings or base.triton
        if free_ports and triton_settings is None:
            triton = triton.model_copy(update={"url": _free_address()})
        self.settings = base.model_copy(
            update={
                "state_dir": self.state_dir,
                "triton": triton,
                "jobs": job_settings.model_copy(update={"database_url": database_url or job_settings.database_url}),
            }
        )
        if free_ports:
            self.settings = self.settings.model_copy(
                update={
                    "object_store": base.object_store.model_copy(update={"endpoint": _free_address()}),
                    "peers": PeerSettings(**{service: _free_address() for service in SERVICES}),
                }
            )
        self.tritons = {
            f"triton-{number}" if number else "triton": at for number, at in enumerate(triton.url.split(","))
        }
        """Address of each Triton by the name of its process; its reconciler's is that with `-reconciler`."""
        ours = [
            *(f"{name}-reconciler" for name in self.tritons),
            *(f"{service}-{role}" for service in SERVICES for role in ("api", "worker")),
        ]
        self.health = {process: _free_address() for process in ours}
        self.metrics = {process: _free_address() for process in (*self.tritons, *ours)}
        self.processes: dict[str, Process] = {}
        self.store = ObjectStore(self.settings.object_store)
        self._lock: IO[str] | None = None

    def address(self, service: str) -> str:
        """gRPC address of a service."""
        return str(getattr(self.settings.peers, service))

    def start(self) -> None:
        """Start everything and wait until it answers.

        Raises FailedPreconditionError (ALREADY_RUNNING, PORT_TAKEN), UnavailableError (PROCESS_ENDED, ...); nothing
        is left running then.
        """
        self._take_lock()
        try:
            if self._fresh:
                for left in ("objects", "jobs", "logs", "work", "triton-cache"):
                    shutil.rmtree(self.state_dir / left, ignore_errors=True)
            self._check_ports()
            self._start_object_store()
            if "generation" in self._services:
                self._say("putting the base model into the object store")
                publish_models(self.store, self.settings.triton.repository)
            else:  # Triton does not start on a repository that is not there
                self.store.put(f"{self.settings.triton.repository}/empty/1/empty", b"")
            for name in self.tritons:
                self._start_triton(name)
                self.start_reconciler(name)
            self._say("loading the models into Triton")
            for name in self.tritons:
                reconciler = f"{name}-reconciler"
                self.processes[reconciler].wait_until(partial(is_serving, self.health[reconciler]), _READY_TIMEOUT_S)
            self._say("starting the services")
            for service in self._services:
                jobs.migrate(service, self.settings)
            for service in self._services:
                for role in ("api", "worker"):
                    self.start_process(service, role)
            for service in self._services:
                self.processes[f"{service}-api"].wait_until(
                    partial(is_serving, self.health[f"{service}-api"]), _READY_TIMEOUT_S
                )
            (self.state_dir / "platform.json").write_text(json.dumps(self.describe(), indent=1))
        except BaseException:
            self.stop()
            raise

    def start_process(self, service: str, role: str, *, executor: str | None = None) -> Process:
        """Start one of a service's processes (again). executor: another worker's name beside the usual one."""
        name = f"{service}-{role}" if executor is None else executor
        process = Process(
            name,
            [sys.executable, "-m", f"flawsmith.{service}", role],
            log=self.state_dir / "logs" / f"{name}.log",
            environment=self.environment(service, role, executor=executor),
        )
        process.start()
        self.processes[name] = process
        return process

    def environment(self, service: str, role: str, *, executor: str | None = None) -> dict[str, str]:
        """Settings of a process as environment variables."""
        settings = self.settings
        values = {
            **_store_environment(settings),
            "FLAWSMITH_STATE_DIR": str(self.state_dir),
            "FLAWSMITH_TRITON__URL": settings.triton.url,
            "FLAWSMITH_TRITON__REPOSITORY": settings.triton.repository,
            "FLAWSMITH_TRITON__LOAD_TIMEOUT_S": str(settings.triton.load_timeout_s),
            "FLAWSMITH_RPC__LISTEN": self.address(service),
            "FLAWSMITH_JOBS__EXECUTOR_ID": executor or f"{service}-worker-0",
            "FLAWSMITH_JOBS__HEARTBEAT_S": str(settings.jobs.heartbeat_s),
            "FLAWSMITH_JOBS__SILENT_AFTER_S": str(settings.jobs.silent_after_s),
            "FLAWSMITH_JOBS__OUTAGE_PATIENCE_S": str(settings.jobs.outage_patience_s),
            "FLAWSMITH_JOBS__MAX_QUEUED": str(settings.jobs.max_queued),
            **self._ports(executor or f"{service}-{role}"),
            **{f"FLAWSMITH_PEERS__{peer.upper()}": self.address(peer) for peer in SERVICES},
        }
        if settings.jobs.database_url:
            values["FLAWSMITH_JOBS__DATABASE_URL"] = settings.jobs.database_url
        return values

    def describe(self) -> dict[str, object]:
        """Where everything is."""
        return {
            "pid": os.getpid(),
            "services": {service: self.address(service) for service in SERVICES},
            "metrics": self.metrics,
            "health": self.health,
            "object_store": self.settings.object_store.endpoint,
            "bucket": self.settings.object_store.bucket,
            "triton": self.settings.triton.url,
            "logs": str(self.state_dir / "logs"),
        }

    def stop(self) -> None:
        """Stop everything, services first."""
        behind = [*(f"{triton}-reconciler" for triton in self.tritons), *self.tritons, "object-store"]
        services = [process for name, process in self.processes.items() if name not in behind]
        for process in services:
            if process.pid is not None:
                process.send(signal.SIGTERM)
        for process in services:
            process.stop()
        for name in behind:
            if name in self.processes:
                self.processes[name].stop()
        self.processes.clear()
        with contextlib.suppress(FileNotFoundError):
            (self.state_dir / "platform.json").unlink()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _take_lock(self) -> None:
        self.state_dir.mkdir(parents=True, exist_ok=True)
        lock = (self.state_dir / "platform.lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.close()
            raise FailedPreconditionError(
                "ALREADY_RUNNING",
                f"a platform runs already on {self.state_dir}; use it, stop it (Ctrl-C where it runs), "
                "or give this one another --state folder",
            ) from error
        self._lock = lock

    def _check_ports(self) -> None:
        wanted = {service: self.address(service) for service in SERVICES}
        wanted |= {"object store": self.settings.object_store.endpoint, **self.tritons}
        taken = [f"{name} {address}" for name, address in wanted.items() if accepts_connections(address)]
        if taken:
            raise FailedPreconditionError(
                "PORT_TAKEN",
                f"something listens already at {', '.join(taken)}; stop it, or choose free ports with --free-ports",
            )

    def _start_object_store(self) -> None:
        self._say("starting the object store")
        self.processes["object-store"] = object_store_server(
            self.settings.object_store, self.state_dir / "objects", self.state_dir / "logs/object-store.log"
        )

    def _start_triton(self, name: str) -> None:
        self._say("starting Triton")
        self.processes[name] = triton_server(
            self.settings.object_store,
            grpc=self.tritons[name],
            metrics=self.metrics[name],
            repository=self.settings.triton.repository,
            state=self.state_dir,
            log=self.state_dir / f"logs/{name}.log",
            environment={
                **_store_environment(self.settings),
                "FLAWSMITH_STATE_DIR": str(self.state_dir),
            },
        )

    def start_reconciler(self, triton: str) -> Process:
        """Start a Triton's reconciler (again). triton: the name of the Triton's process."""
        name = f"{triton}-reconciler"
        process = Process(
            name,
            [sys.executable, "-m", "flawsmith.common.reconciler"],
            log=self.state_dir / f"logs/{name}.log",
            environment={
                **_store_environment(self.settings),
                "FLAWSMITH_TRITON__URL": self.tritons[triton],
                "FLAWSMITH_TRITON__REPOSITORY": self.settings.triton.repository,
                "FLAWSMITH_TRITON__RECONCILE_S": str(self.settings.triton.reconcile_s),
                "FLAWSMITH_TRITON__UNLOAD_AFTER_S": str(self.settings.triton.unload_after_s),
                **self._ports(name),
            },
        )
        process.start()
        self.processes[name] = process
        return process

    def _ports(self, process: str) -> dict[str, str]:
        """Where a process has its metrics and its health port."""
        return {
            "FLAWSMITH_TELEMETRY__METRICS_LISTEN": self.metrics.get(process, "127.0.0.1:0"),
            "FLAWSMITH_RPC__HEALTH_LISTEN": self.health.get(process, "127.0.0.1:0"),
        }


def _store_environment(settings: Settings) -> dict[str, str]:
    store: ObjectStoreSettings = settings.object_store
    return {
        "FLAWSMITH_OBJECT_STORE__ENDPOINT": store.endpoint,
        "FLAWSMITH_OBJECT_STORE__ACCESS_KEY": store.access_key,
        "FLAWSMITH_OBJECT_STORE__SECRET_KEY": store.secret_key.get_secret_value(),
        "FLAWSMITH_OBJECT_STORE__REGION": store.region,
        "FLAWSMITH_OBJECT_STORE__SECURE": str(store.secure),
        "FLAWSMITH_OBJECT_STORE__BUCKET": store.bucket,
    }


def _free_address() -> str:
    return f"127.0.0.1:{free_port()}"
