"""The health port: what probes of containers and of Kubernetes ask, on a real port and with the real command."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from flawsmith.common import health
from flawsmith.common.health import LIVENESS, READINESS, HealthServer, is_serving


@pytest.fixture
async def server() -> AsyncIterator[HealthServer]:
    server = HealthServer("127.0.0.1:0")
    server.start()
    yield server
    server.stop()


async def serving(server: HealthServer, service: str) -> bool:
    return await asyncio.to_thread(is_serving, f"127.0.0.1:{server.port}", service)


async def command(*arguments: str) -> int:
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "flawsmith.common.health", *arguments)
    return await asyncio.wait_for(process.wait(), 20)


async def test_readiness_follows_the_process_and_liveness_does_not(server: HealthServer) -> None:
    for ready in (False, True, False):
        server.set_ready(ready)
        assert await serving(server, READINESS) is ready
        assert await serving(server, "") is ready
        assert await serving(server, LIVENESS)


async def test_an_unknown_service_is_not_found(server: HealthServer) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="nothing"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_stuck_event_loop_is_not_alive(server: HealthServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "LOOP_PATIENCE_S", 0.3)
    server.set_ready(True)
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(is_serving, f"127.0.0.1:{server.port}", LIVENESS)
        assert not asked.result()  # waits without giving the event loop a turn
    assert await serving(server, LIVENESS)


async def test_the_command_exits_by_the_answer(server: HealthServer) -> None:
    address = f"127.0.0.1:{server.port}"
    assert await command(address, LIVENESS) == 0
    assert await command(address) == 1
    server.set_ready(True)
    assert await command(address) == 0
    assert await command(address, READINESS) == 0
    server.stop()
    assert await command(address) == 1


def test_the_command_imports_nothing_heavy() -> None:
    code = (
        "import sys, flawsmith.common.health\n"
        "print([m for m in ('pydantic', 'structlog', 'opentelemetry', 'numpy', 'minio') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
