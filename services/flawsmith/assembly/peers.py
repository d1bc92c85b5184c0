"""Calls of the generation and augmentation services, through their public API and in the caller's name."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf.message import Message

from flawsmith.augmentation.v1 import augmentation_pb2_grpc
from flawsmith.common.convert import to_dict, to_message
from flawsmith.common.errors import AbortedError, FlawsmithError, UnavailableError
from flawsmith.common.process import Platform
from flawsmith.common.statuses import error_of, error_of_call
from flawsmith.common.v1 import common_pb2
from flawsmith.generation.v1 import generation_pb2_grpc

_CALL_TIMEOUT_S = 30.0
_CONNECTION_LOST = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
)
_CANCELLED = 1
Response = TypeVar("Response", bound=Message)
Found = TypeVar("Found")


class Peers:
    """The services that assembly calls. patience_s: how long one of them may be away while something is awaited."""

    def __init__(self, platform: Platform, caller: str, patience_s: float) -> None:
        self._channels = {service: platform.channel(service, caller) for service in ("generation", "augmentation")}
        self._operations = {
            service: operations_pb2_grpc.OperationsStub(channel) for service, channel in self._channels.items()
        }
        self._stubs: dict[str, Any] = {
            "generation": generation_pb2_grpc.GenerationServiceStub(self._channels["generation"]),
            "augmentation": augmentation_pb2_grpc.AugmentationServiceStub(self._channels["augmentation"]),
        }
        self._patience_s = patience_s

    async def call(self, service: str, method: str, request: Message) -> dict[str, Any]:
        """Fields of a unary call's answer. Raises the error that the service raised, or UnavailableError."""
        return to_dict(await _raising(service, getattr(self._stubs[service], method)(request, timeout=_CALL_TIMEOUT_S)))

    async def start(self, service: str, method: str, request: type[Message], values: dict[str, Any]) -> str:
        """Start an operation; returns its name. The same request_id twice is one operation."""
        return str((await self.call(service, method, to_message(values, request)))["name"])

    async def wait(
        self,
        service: str,
        operation: str,
        response: type[Response],
        on_progress: Callable[[common_pb2.OperationMetadata], Awaitable[None]],
    ) -> Response:
        """The response of an operation, once it is done. Raises the operation's error."""

        async def look() -> operations_pb2.Operation | None:
            request = operations_pb2.GetOperationRequest(name=operation)
            found = await _raising(service, self._operations[service].GetOperation(request, timeout=_CALL_TIMEOUT_S))
            metadata = common_pb2.OperationMetadata()
            found.metadata.Unpack(metadata)
            await on_progress(metadata)
            return found if found.done else None

        done = await self.poll(look)
        if done.HasField("error"):
            if done.error.code == _CANCELLED:
                raise AbortedError("STEP_CANCELLED", f"{operation}, on which this depends, was cancelled; start again")
            raise error_of(done.error)
        result = response()
        done.response.Unpack(result)
        return result

    async def poll(self, look: Callable[[], Awaitable[Found | None]], *, every_s: float = 1.0) -> Found:
        """Look until there is something. A service that is away for longer than our patience is an error."""
        lost_since: float | None = None
        while True:
            try:
                found = await look()
                lost_since = None
            except UnavailableError:
                lost_since = lost_since or time.monotonic()
                if time.monotonic() - lost_since > self._patience_s:
                    raise
                found = None
            if found is not None:
                return found
            await asyncio.sleep(every_s)

    async def cancel(self, service: str, operation: str) -> None:
        """Ask an operation to stop; one that ended stays as it is."""
        request = operations_pb2.CancelOperationRequest(name=operation)
        await _raising(service, self._operations[service].CancelOperation(request, timeout=_CALL_TIMEOUT_S))


async def _raising(service: str, call: Awaitable[Any]) -> Any:
    try:
        return await call
    except grpc.aio.AioRpcError as failure:
        error: FlawsmithError = error_of_call(failure)
        # A reason of its own comes from the service; without one the connection failed or the answer was late.
        if failure.code() in _CONNECTION_LOST and error.reason == failure.code().name:
            error = UnavailableError(
                "SERVICE_UNREACHABLE", f"the {service} service does not answer ({failure.code().name}); try again later"
            )
        raise error from failure
