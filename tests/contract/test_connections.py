"""Servers that come and go behind one name: clients find the new ones and lose no call."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from flawsmith.augmentation.v1 import augmentation_pb2, augmentation_pb2_grpc
from flawsmith.classification.v1 import classification_pb2, classification_pb2_grpc
from flawsmith.common import channels, rpc
from flawsmith.common.settings import AuthSettings, RpcSettings
from flawsmith.local.processes import free_port

AUGMENTATION = "flawsmith.augmentation.v1.AugmentationService"
CLASSIFICATION = "flawsmith.classification.v1.ClassificationService"


class NameServer(asyncio.DatagramProtocol):
    """Answers every DNS question for IPv4 addresses with `addresses`, and others with nothing."""

    def __init__(self) -> None:
        self.addresses: list[str] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, source: Any) -> None:
        end = data.index(b"\0", 12) + 5  # name, type, class
        asks_ipv4 = data[end - 4 : end - 2] == b"\0\1"
        found = self.addresses if asks_ipv4 else []
        records = b"".join(
            b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 0, 4) + socket.inet_aton(address) for address in found
        )
        header = data[:2] + struct.pack("!HHHHH", 0x8580, 1, len(found), 0, 0)
        self.transport.sendto(header + data[12:end] + records, source)


class Servicer(augmentation_pb2_grpc.AugmentationServiceServicer):
    def __init__(self) -> None:
        self.calls = 0

    async def ListMethods(self, request: Any, context: Any) -> augmentation_pb2.ListMethodsResponse:
        self.calls += 1
        await asyncio.sleep(0.05)
        return augmentation_pb2.ListMethodsResponse()


@pytest.fixture
async def names() -> AsyncIterator[tuple[NameServer, str]]:
    """A DNS server, and a target whose name it resolves; the port is the servers'."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(NameServer, local_addr=("127.0.0.1", 0))
    port = transport.get_extra_info("sockname")[1]
    yield server, f"dns://127.0.0.1:{port}/augmentation.flawsmith.test:{free_port()}"
    transport.close()


async def start(host: str, target: str, **settings: Any) -> tuple[rpc.Server, Servicer]:
    port = target.rpartition(":")[2]
    server = rpc.Server("augmentation", RpcSettings(listen=f"{host}:{port}", **settings), AuthSettings())
    servicer = Servicer()
    server.add(AUGMENTATION, augmentation_pb2_grpc.add_AugmentationServiceServicer_to_server, servicer)
    await server.start()
    return server, servicer


@contextlib.asynccontextmanager
async def load(target: str, callers: int = 8) -> AsyncIterator[None]:
    """Calls without pause from several callers over one channel; the first failure is raised at the end."""
    async with rpc.channel(target) as channel:
        stub = augmentation_pb2_grpc.AugmentationServiceStub(channel)
        stop = asyncio.Event()

        async def call() -> None:
            while not stop.is_set():
                await stub.ListMethods(augmentation_pb2.ListMethodsRequest(), timeout=10)

        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(call())
            yield
            stop.set()


async def until(condition: Any, timeout_s: float = 30.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.05)


async def test_a_new_server_gets_its_share_and_one_that_drains_loses_no_call(names: tuple[NameServer, str]) -> None:
    dns, target = names
    dns.addresses = ["127.0.0.1"]
    first, old = await start("127.0.0.1", target, max_connection_age_s=1.0, drain_s=5.0)
    async with load(target):
        await until(lambda: old.calls > 20)
        second, new = await start("127.0.0.2", target, max_connection_age_s=1.0, drain_s=5.0)
        dns.addresses = ["127.0.0.1", "127.0.0.2"]
        await until(lambda: new.calls > 0)
        before = old.calls, new.calls
        await asyncio.sleep(2.0)
        shares = old.calls - before[0], new.calls - before[1]
        assert min(shares) > 0.3 * sum(shares)

        dns.addresses = ["127.0.0.2"]
        await first.stop()
        before = old.calls, new.calls
        await until(lambda: new.calls > before[1] + 50)
        assert old.calls == before[0]
    await second.stop()


async def test_a_killed_connection_costs_no_call_while_another_server_is_there(names: tuple[NameServer, str]) -> None:
    dns, target = names
    dns.addresses = ["127.0.0.1", "127.0.0.2"]
    first, one = await start("127.0.0.1", target)
    second, two = await start("127.0.0.2", target)
    async with load(target):
        await until(lambda: one.calls > 20 and two.calls > 20)
        await first.grpc.stop(None)  # at once, with calls in flight
        before = two.calls
        await until(lambda: two.calls > before + 50)
    await second.stop()


async def test_calls_that_a_stopping_server_never_looked_at_go_to_another(names: tuple[NameServer, str]) -> None:
    dns, target = names
    dns.addresses = ["127.0.0.1", "127.0.0.2"]
    first, one = await start("127.0.0.1", target)
    second, two = await start("127.0.0.2", target)
    with channels.connect(grpc, target, None) as channel:
        stub = augmentation_pb2_grpc.AugmentationServiceStub(channel)

        def call() -> None:
            stub.ListMethods(augmentation_pb2.ListMethodsRequest(), timeout=10)

        async with asyncio.TaskGroup() as group:
            while one.calls == 0 or two.calls == 0:
                await asyncio.to_thread(call)
            for _ in range(8):
                group.create_task(asyncio.to_thread(call))
            await asyncio.sleep(0)
            # The loop is busy with something long while they arrive, and then the server is told to stop.
            time.sleep(0.5)  # noqa: ASYNC251
            await first.stop()
    await second.stop()


async def test_what_its_caller_cancels_is_not_tried_again(names: tuple[NameServer, str]) -> None:
    dns, target = names
    dns.addresses = ["127.0.0.1"]
    server, servicer = await start("127.0.0.1", target)
    async with rpc.channel(target) as channel:
        call = augmentation_pb2_grpc.AugmentationServiceStub(channel).ListMethods(
            augmentation_pb2.ListMethodsRequest(), timeout=10
        )
        await until(lambda: servicer.calls == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.sleep(1.0)  # the first two attempts would be within 0.2 and 0.6 s
    assert servicer.calls == 1
    await server.stop()


class Champions(classification_pb2_grpc.ClassificationServiceServicer):
    def __init__(self) -> None:
        self.calls: list[str] = []

    async def RollBackClassifier(self, request: Any, context: Any) -> None:
        self.calls.append("RollBackClassifier")
        await context.abort(grpc.StatusCode.UNAVAILABLE, "try again")

    async def GetClassifierVersion(self, request: Any, context: Any) -> None:
        self.calls.append("GetClassifierVersion")
        await context.abort(grpc.StatusCode.UNAVAILABLE, "try again")


async def test_what_is_unavailable_is_tried_again_but_for_roll_backs() -> None:
    server = rpc.Server("classification", RpcSettings(drain_s=0), AuthSettings())
    champions = Champions()
    server.add(CLASSIFICATION, classification_pb2_grpc.add_ClassificationServiceServicer_to_server, champions)
    async with rpc.channel(f"127.0.0.1:{await server.start()}") as channel:
        stub = classification_pb2_grpc.ClassificationServiceStub(channel)
        for call, request in (
            (stub.RollBackClassifier, classification_pb2.RollBackClassifierRequest()),
            (stub.GetClassifierVersion, classification_pb2.GetClassifierVersionRequest()),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(request, timeout=20)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert champions.calls == ["RollBackClassifier", *["GetClassifierVersion"] * 4]
    await server.stop()
