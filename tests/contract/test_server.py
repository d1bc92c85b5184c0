"""What every gRPC server of ours does, whatever its service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from flawsmith.augmentation.v1 import augmentation_pb2, augmentation_pb2_grpc
from flawsmith.common import rpc
from flawsmith.common.errors import FieldViolation, InvalidArgumentError, UnavailableError
from flawsmith.common.settings import AuthSettings, RpcSettings
from flawsmith.common.statuses import error_of_call

NAME = "flawsmith.augmentation.v1.AugmentationService"
MiB = 2**20


class Servicer(augmentation_pb2_grpc.AugmentationServiceServicer):
    """Misbehaves as the page token says."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()

    async def ListMethods(self, request: Any, context: Any) -> augmentation_pb2.ListMethodsResponse:
        self.begun.set()
        match request.page_token:
            case "bad":
                fields = [FieldViolation("page_size", "too big"), FieldViolation("page_token", "unknown")]
                raise InvalidArgumentError("BAD_PAGE", "take another page", fields=fields)
            case "down":
                raise UnavailableError("STORE_DOWN", "try again later", retry_after_s=3)
            case "bug":
                raise RuntimeError("password=secret")
            case "slow":
                await asyncio.sleep(request.page_size / 1000)
        return augmentation_pb2.ListMethodsResponse(next_page_token=rpc.principal(context))

    async def AugmentStream(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            if request.seed < 0:
                raise InvalidArgumentError("BAD_SEED", "take a seed of 0 or more")
            yield augmentation_pb2.AugmentImageResponse(image=request.image.content)


Serve = Callable[..., Awaitable[tuple[rpc.Server, Servicer, str]]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts servers on free ports, and stops them."""
    servers: list[rpc.Server] = []

    async def start(auth: AuthSettings | None = None, **settings: Any) -> tuple[rpc.Server, Servicer, str]:
        server = rpc.Server("augmentation", RpcSettings(**{"drain_s": 0, **settings}), auth or AuthSettings())
        servicer = Servicer()
        server.add(NAME, augmentation_pb2_grpc.add_AugmentationServiceServicer_to_server, servicer)
        servers.append(server)
        return server, servicer, f"127.0.0.1:{await server.start()}"

    yield start
    for server in servers:
        await server.stop()


@pytest.fixture
async def address(serve: Serve) -> str:
    return (await serve())[2]


async def list_methods(address: str, behaviour: str = "", size: int = 0, **kwargs: Any) -> Any:
    async with rpc.channel(address, **kwargs) as channel:
        stub = augmentation_pb2_grpc.AugmentationServiceStub(channel)
        request = augmentation_pb2.ListMethodsRequest(page_token=behaviour, page_size=size)
        return await stub.ListMethods(request, timeout=10)


async def test_domain_errors_carry_their_details(address: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await list_methods(address, "bad")
    status = rpc_status.from_call(caught.value)
    assert status.code == code_pb2.INVALID_ARGUMENT
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(bad)
    assert (info.reason, info.domain) == ("BAD_PAGE", "flawsmith")
    assert [v.field for v in bad.field_violations] == ["page_size", "page_token"]


async def test_an_outage_says_when_to_try_again(address: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await list_methods(address, "down")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert error_of_call(caught.value).retry_after_s == 3


async def test_a_bug_is_internal_and_tells_nothing(address: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await list_methods(address, "bug")
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in str(caught.value.debug_error_string()) + caught.value.details()


async def test_a_call_without_a_deadline_gets_one(serve: Serve) -> None:
    _, _, address = await serve(default_deadline_s=0.2)
    async with rpc.channel(address) as channel:
        stub = augmentation_pb2_grpc.AugmentationServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ListMethods(augmentation_pb2.ListMethodsRequest(page_token="slow", page_size=5000))
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_streams_answer_in_order_and_map_errors(address: str) -> None:
    async with rpc.channel(address) as channel:
        stub = augmentation_pb2_grpc.AugmentationServiceStub(channel)
        call = stub.AugmentStream()
        for number in range(3):
            request = augmentation_pb2.AugmentImageRequest()
            request.image.content = bytes([number])
            await call.write(request)
            assert (await call.read()).image == bytes([number])
        await call.write(augmentation_pb2.AugmentImageRequest(seed=-1))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    assert error_of_call(caught.value).reason == "BAD_SEED"


async def test_too_large_a_message_is_refused(address: str) -> None:
    async with rpc.channel(address) as channel:
        stub = augmentation_pb2_grpc.AugmentationServiceStub(channel)
        request = augmentation_pb2.AugmentImageRequest()
        request.image.content = bytes(7 * MiB)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.AugmentImage(request)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_without_tokens_callers_are_believed(address: str) -> None:
    assert (await list_methods(address)).next_page_token == "anonymous"
    assert (await list_methods(address, caller="line-7")).next_page_token == "line-7"


async def test_with_tokens_only_their_owners_get_in(serve: Serve) -> None:
    _, _, address = await serve(AuthSettings(tokens={"t0k3n": "line-7"}))
    assert (await list_methods(address, token="t0k3n", caller="boss")).next_page_token == "line-7"
    for token in (None, "wrong"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await list_methods(address, token=token)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_health_waits_for_dependencies_once_and_then_stays(serve: Serve) -> None:
    server, _, address = await serve()
    up = asyncio.Event()

    async def dependency() -> None:
        if not up.is_set():
            raise UnavailableError("STORE_DOWN", "try again later")

    ready = asyncio.create_task(server.become_ready([dependency]))
    async with grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", NAME):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
        up.set()
        await ready
        up.clear()
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=NAME))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_reflection_lists_the_service(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        answer = await anext(aiter(call))
    assert NAME in [service.name for service in answer.list_services_response.service]


async def test_calls_in_flight_end_before_the_server_does(serve: Serve) -> None:
    server, servicer, address = await serve(drain_s=5)
    call = asyncio.create_task(list_methods(address, "slow", 500))
    await servicer.begun.wait()
    await server.stop()
    assert (await call).next_page_token == "anonymous"
