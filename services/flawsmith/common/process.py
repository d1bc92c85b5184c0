"""What `python -m flawsmith.<service> api|worker|migrate` runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

import grpc
import uvloop
from google.longrunning import operations_pb2_grpc
from google.protobuf.message import Message

from flawsmith.common import jobs, rpc, telemetry
from flawsmith.common.checkpoints import forget_ended
from flawsmith.common.errors import FlawsmithError
from flawsmith.common.health import HealthServer
from flawsmith.common.object_store import ObjectStore
from flawsmith.common.operations import Brief, Operations
from flawsmith.common.resources import Resources
from flawsmith.common.settings import Settings, load_settings
from flawsmith.common.signals import stop_event
from flawsmith.common.triton import TritonClient

_LOG = telemetry.log(__name__)
_LEAVE_S = 3.0
"""How long saying goodbye to the database or to the collector may take, each."""
SWITCH_INTERVAL_S = 0.001
"""How long a thread that comes back from computing or from the network waits for one that interprets Python; the
interpreter's 5 ms leave cores idle where many threads do short work."""


class Platform:
    """What servicers and workflows reach the rest through. Clients bind to the event loop that first uses them."""

    def __init__(self, service: str, settings: Settings) -> None:
        self.service = service
        self.settings = settings
        self.store = ObjectStore(settings.object_store)
        self.resources = Resources(self.store)
        self._triton: TritonClient | None = None
        self._channels: dict[str, grpc.aio.Channel] = {}

    @property
    def triton(self) -> TritonClient:
        """The Triton server."""
        if self._triton is None:
            self._triton = TritonClient(self.settings.triton)
        return self._triton

    def channel(self, service: str, caller: str) -> grpc.aio.Channel:
        """A channel to another service in a caller's name."""
        key = f"{service}/{caller}"
        if key not in self._channels:
            token = next((t for t, owner in self.settings.auth.tokens.items() if owner == caller), None)
            address, tls = getattr(self.settings.peers, service), self.settings.rpc.tls
            self._channels[key] = rpc.channel(address, tls=tls, caller=caller, token=token)
        return self._channels[key]

    async def close(self) -> None:
        """Close what was opened."""
        if self._triton is not None:
            await self._triton.close()
        for channel in self._channels.values():
            await channel.close()


@dataclass(frozen=True)
class ServiceDefinition:
    """One service: how its API and its worker are put together.

    name: `generation`. full_name: the proto service's. responses: the message that each kind of operation ends in.
    brief: what a list of operations shows of a result, where that is less than all.
    workflows: imported by workers only, so that an API server holds no training stack.
    """

    name: str
    full_name: str
    add_servicer: Callable[[Any, Any], None]
    servicer: Callable[[Platform, Operations], Any]
    workflows: Callable[[], dict[str, jobs.Workflow]]
    responses: dict[str, type[Message]]
    waiting: frozenset[str] = field(default=frozenset())
    brief: Brief = dict
    needs_triton: bool = False


def main(definition: ServiceDefinition) -> None:
    """Run the role that the command line names."""
    role = sys.argv[1] if len(sys.argv) == 2 else ""
    if role not in ("api", "worker", "migrate"):
        sys.exit(f"usage: python -m flawsmith.{definition.name} api|worker|migrate")
    # grpc's fork handlers are not needed (children are executed, not forked) and have deadlocked.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    # Its own lines on stderr are not structured, e.g. one for each stranger that fails a TLS handshake.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    settings = load_settings()
    telemetry.start(settings.telemetry, f"{definition.name}-{role}")
    if role == "migrate":
        jobs.migrate(definition.name, settings)
    elif role == "api":
        uvloop.run(_run_api(definition, settings))
    else:
        asyncio.run(_run_worker(definition, settings))


async def _run_api(definition: ServiceDefinition, settings: Settings) -> None:
    stopped = stop_event()
    health = HealthServer(settings.rpc.health_listen)
    health.start()
    platform = Platform(definition.name, settings)
    client = jobs.JobClient(definition.name, settings)
    operations = Operations(client, platform.resources, definition.responses, definition.waiting, definition.brief)
    server = rpc.Server(definition.name, settings.rpc, settings.auth)
    server.add(definition.full_name, definition.add_servicer, definition.servicer(platform, operations))
    server.add("google.longrunning.Operations", operations_pb2_grpc.add_OperationsServicer_to_server, operations)
    port = await server.start()
    _LOG.info("listening", port=port, health_port=health.port)
    checks: list[Callable[[], Awaitable[None]]] = [client.check, lambda: asyncio.to_thread(platform.store.check)]
    if definition.needs_triton:
        checks.append(lambda: platform.triton.check())

    async def become_ready() -> None:
        await server.become_ready(checks)
        health.set_ready(True)

    background = [
        asyncio.create_task(become_ready()),
        asyncio.create_task(_measure(definition.name, client)),
        asyncio.create_task(forget_ended(platform.store, client)),
    ]
    await stopped.wait()
    _LOG.info("draining")
    for task in background:
        task.cancel()
    health.set_ready(False)
    await server.stop()
    await platform.close()
    await _leave()


async def _run_worker(definition: ServiceDefinition, settings: Settings) -> None:
    stopped = stop_event()
    health = HealthServer(settings.rpc.health_listen)
    health.start()
    platform = Platform(definition.name, settings)
    # Its imports take seconds (torch), in which the health port answers already.
    workflows = await asyncio.to_thread(definition.workflows)
    worker = jobs.Worker(definition.name, settings, workflows, platform)
    while not stopped.is_set():
        try:
            await asyncio.to_thread(worker.start)
            break
        except Exception as error:  # the database may not be up yet; DBOS raises many kinds
            _LOG.warning("waiting for the job database", problem=str(error))
            await asyncio.sleep(1.0)
    _LOG.info("working", executor=worker.executor, health_port=health.port)

    async def become_ready() -> None:
        await rpc.answered_once([lambda: asyncio.to_thread(platform.store.check)])
        health.set_ready(True)

    background = [asyncio.create_task(worker.watch()), asyncio.create_task(become_ready())]
    await stopped.wait()
    _LOG.info("leaving unfinished jobs to others")
    for task in background:
        task.cancel()
    health.set_ready(False)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LEAVE_S):
            await asyncio.to_thread(worker.stop)
    await _leave()


async def _leave() -> NoReturn:
    """End now: threads may still block on a database or an object store that hangs, and nothing of theirs counts."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LEAVE_S):
            await asyncio.to_thread(telemetry.stop)
    sys.stderr.flush()
    os._exit(0)


async def _measure(service: str, client: jobs.JobClient) -> None:
    while True:
        try:
            counts = await client.counts()
            telemetry.QUEUE_DEPTH.labels(service).set(counts["ENQUEUED"])
            for status, state in (("ENQUEUED", "queued"), ("PENDING", "running")):
                telemetry.JOBS.labels(service, state).set(counts[status])
        except FlawsmithError as error:
            _LOG.warning("jobs cannot be counted", reason=error.reason)
        await asyncio.sleep(5.0)
