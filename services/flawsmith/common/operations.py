"""google.longrunning.Operations over durable jobs: one implementation for every service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf import empty_pb2
from google.protobuf.message import Message
from pydantic import BaseModel

from flawsmith.common import rpc
from flawsmith.common.convert import to_message, to_model
from flawsmith.common.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError
from flawsmith.common.jobs import JobClient, JobState
from flawsmith.common.resources import MAX_PAGE, Resources
from flawsmith.common.statuses import internal_status, status_of
from flawsmith.common.v1 import common_pb2

Brief = Callable[[dict[str, Any]], dict[str, Any]]
_LEAST_POLL_S, _MOST_POLL_S, _POLL_SHARE = 0.04, 0.5, 0.01
"""A waiting caller hears of the end late by this share of the operation's age at most, within these limits."""


class Operations(operations_pb2_grpc.OperationsServicer):
    """Starts, shows, awaits and cancels a service's operations.

    responses: for each kind of job the message that its result becomes. waiting: kinds that mostly wait. brief: what a
    list shows of a result; all by default.
    """

    def __init__(
        self,
        jobs: JobClient,
        resources: Resources,
        responses: dict[str, type[Message]],
        waiting: frozenset[str],
        brief: Brief = dict,
    ) -> None:
        self._jobs = jobs
        self._resources = resources
        self._responses = responses
        self._waiting = waiting
        self._brief = brief

    async def start(
        self,
        context: Any,
        kind: str,
        request: Any,
        spec_model: type[BaseModel],
        *,
        target: str = "",
        collection: str = "",
        resource_id: str = "",
        **extra: Any,
    ) -> operations_pb2.Operation:
        """Validate a request as `spec_model` and start (or find) its operation.

        The resource to make is `target`, or `{request.parent}/{collection}/{resource_id}` with an id made from the
        operation's where none is given; the specification gets it as `name` and the caller as `principal`.
        extra: more of its values that are not in the request.
        Raises InvalidArgumentError, AlreadyExistsError (RESOURCE_EXISTS), ResourceExhaustedError (QUEUE_FULL).
        """
        caller = rpc.principal(context)
        operation = self._jobs.operation_id(caller, request.request_id)
        made = f"{request.parent}/{collection}/{resource_id or operation[-12:]}" if collection else target
        spec = to_model(request, spec_model, name=made, principal=caller, **extra)
        waits = kind in self._waiting
        if collection and not await self._known(operation) and await asyncio.to_thread(self._resources.exists, made):
            raise AlreadyExistsError("RESOURCE_EXISTS", f"{made} exists and is immutable; choose another id")
        await self._jobs.start(operation, kind, spec, target=made, principal=caller, waits=waits)
        return self._message(await self._jobs.get(operation))

    async def GetOperation(self, request: Any, context: Any) -> operations_pb2.Operation:
        """Where an operation stands."""
        return self._message(await self._jobs.get(_id(request.name)))

    async def ListOperations(self, request: Any, context: Any) -> operations_pb2.ListOperationsResponse:
        """Operations, newest first; GetOperation may say more of a response. `filter` is not supported and must be
        empty."""
        if request.filter:
            raise InvalidArgumentError("UNSUPPORTED_FILTER", "leave `filter` empty: filters are not supported")
        if request.page_size < 0 or (request.page_token and not request.page_token.isdigit()):
            raise InvalidArgumentError("INVALID_PAGE", "page_size must be 0 or more and page_token from a response")
        size, offset = min(request.page_size or 50, MAX_PAGE), int(request.page_token or 0)
        found = await self._jobs.list(limit=size + 1, offset=offset)
        return operations_pb2.ListOperationsResponse(
            operations=[self._message(state, self._brief) for state in found[:size]],
            next_page_token=str(offset + size) if len(found) > size else "",
        )

    async def WaitOperation(self, request: Any, context: Any) -> operations_pb2.Operation:
        """Answer when the operation is done, or when its timeout or the call's deadline is near."""
        timeout = request.timeout.seconds + request.timeout.nanos / 1e9 if request.HasField("timeout") else 3600.0
        remaining = context.time_remaining()
        budget = min(timeout, 3600.0 if remaining is None else remaining - 0.5)
        operation, loop = _id(request.name), asyncio.get_running_loop()
        deadline = loop.time() + budget
        begun = (await self._jobs.get(operation)).create_time
        while not await self._jobs.is_done(operation):
            age = (datetime.now(UTC) - begun).total_seconds()
            pause = min(max(_LEAST_POLL_S, _POLL_SHARE * age), _MOST_POLL_S)
            if loop.time() + pause > deadline:
                break
            await asyncio.sleep(pause)
        return self._message(await self._jobs.get(operation))

    async def CancelOperation(self, request: Any, context: Any) -> empty_pb2.Empty:
        """Ask an operation to stop; its process ends within seconds."""
        await self._jobs.cancel(_id(request.name))
        return empty_pb2.Empty()

    async def _known(self, operation: str) -> bool:
        try:
            await self._jobs.get(operation)
        except NotFoundError:
            return False
        return True

    def _message(self, state: JobState, shown: Brief = dict) -> operations_pb2.Operation:
        message = operations_pb2.Operation(name=f"operations/{state.id}", done=state.done)
        message.metadata.Pack(to_message(vars(state), common_pb2.OperationMetadata))
        if state.state == "cancelled":
            message.error.code = 1
            message.error.message = "cancelled"
        elif state.error is not None:
            message.error.CopyFrom(internal_status() if state.error.code == "INTERNAL" else status_of(state.error))
        elif state.result is not None:
            message.response.Pack(to_message(shown(state.result), self._responses[state.kind]))
        return message


def _id(name: str) -> str:
    prefix, _, operation = name.partition("/")
    if prefix != "operations" or not operation:
        raise InvalidArgumentError("INVALID_NAME", f"name: {name!r} does not look like 'operations/ID'")
    return operation
