"""Triton: inference, and explicit model control."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from flawsmith.common.errors import (
    ERRORS_BY_CODE,
    FailedPreconditionError,
    FlawsmithError,
    InvalidArgumentError,
    UnavailableError,
)
from flawsmith.common.settings import TritonSettings
from flawsmith.common.shared_memory import Region, SharedMemory

_REASON = re.compile(rf"\b({'|'.join(ERRORS_BY_CODE)})/([A-Z][A-Z0-9_]+): (.*)", re.DOTALL)
_LOCAL = re.compile(r"(127(\.\d{1,3}){3}|localhost|\[::1\]):\d+")
_NO_SUCH_REGION = "Unable to find shared memory region"
_CONTROL_TIMEOUT_S = 5.0
_POLL_S = 0.25
# A server that goes away (UNAVAILABLE, and CANCELLED as `common.channels` says) or has not loaded a model yet
# (UNAVAILABLE) costs no call while another one answers.
_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
            },
        }
    ],
}


class TritonClient:
    """The Triton servers behind one address, or a single one of them (`at`).

    Inferences are balanced over all servers. Loading and unloading are for a client of one server: of several, only
    one would hear. Our model code raises errors as `CODE/REASON: message`, which come back as our domain errors; a
    server that does not answer is UnavailableError (TRITON_UNAVAILABLE).
    """

    def __init__(self, settings: TritonSettings) -> None:
        self.settings = settings
        self._servers: dict[str, TritonClient] = {}
        self._client = triton.InferenceServerClient(
            url=f"ipv4:{settings.url}" if "," in settings.url else f"dns:///{settings.url}",
            channel_args=[
                ("grpc.max_send_message_length", -1),
                ("grpc.max_receive_message_length", -1),
                # A server that comes back is found within seconds, not minutes.
                ("grpc.max_reconnect_backoff_ms", 2000),
                ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
                # A request that does not fit is not tried again.
                ("grpc.per_rpc_retry_buffer_size", 64 * 2**20),
            ],
        )
        # Only one server on this machine can be meant: with several, each call may go to another one.
        self._shared = SharedMemory(self._client) if _LOCAL.fullmatch(settings.url) else None

    async def close(self) -> None:
        """Close the channels."""
        await self._client.close()
        for server in self._servers.values():
            await server.close()

    async def endpoints(self) -> list[str]:
        """Addresses (`ip:port`) of all servers now. Raises UnavailableError (TRITON_UNAVAILABLE) where there is none.

        A name with IPv4 and IPv6 addresses counts as its IPv4 ones: two addresses of one server are one endpoint.
        """
        found: set[str] = set()
        for address in self.settings.url.split(","):
            host, _, port = address.rpartition(":")
            try:
                infos = await asyncio.get_running_loop().getaddrinfo(
                    host.strip("[]"), int(port), type=socket.SOCK_STREAM
                )
            except socket.gaierror as error:
                raise UnavailableError(
                    "TRITON_UNAVAILABLE", f"no Triton is known at {address} ({error.strerror}); try again later"
                ) from error
            four = {f"{info[4][0]}:{info[4][1]}" for info in infos if info[0] is socket.AF_INET}
            found |= four or {f"[{info[4][0]}]:{info[4][1]}" for info in infos}
        return sorted(found)

    def at(self, endpoint: str) -> TritonClient:
        """A client of one server, kept open."""
        if endpoint not in self._servers:
            self._servers[endpoint] = TritonClient(self.settings.model_copy(update={"url": endpoint}))
        return self._servers[endpoint]

    async def check(self) -> None:
        """Raise unless a server is ready."""
        try:
            ready = await self._client.is_server_ready(client_timeout=_CONTROL_TIMEOUT_S)
        except InferenceServerException as error:
            raise _translate(error) from error
        if not ready:
            raise UnavailableError("TRITON_UNAVAILABLE", "Triton is not ready; try again later")

    async def infer(
        self, model: str, inputs: dict[str, np.ndarray], outputs: list[str], *, timeout_s: float | None = None
    ) -> dict[str, np.ndarray]:
        """Run a model. Arrays keep their dtypes (object arrays of bytes become BYTES).

        A server that lacks the model (it started anew) is passed over while another one has it. One on this machine
        reads large inputs from shared memory.
        Raises UnavailableError (MODEL_NOT_LOADED) where none has it yet: the reconciler beside each loads it.
        """
        wanted = [triton.InferRequestedOutput(name) for name in outputs]
        limit = timeout_s or self.settings.infer_timeout_s
        tries, shared = 0, self._shared
        while True:
            regions: list[Region] = []
            try:
                tensors = [await _tensor(name, array, shared, regions) for name, array in inputs.items()]
                result = await self._client.infer(model, tensors, outputs=wanted, client_timeout=limit)
            except InferenceServerException as error:
                if shared is not None and _NO_SUCH_REGION in str(error):
                    shared.forget()
                    shared = None  # the next call shares again
                    continue
                _rest(shared, regions)
                translated, tries = _translate(error), tries + 1
                if translated.reason != "MODEL_NOT_LOADED" or tries >= len(await self.endpoints()):
                    raise translated from error
            except BaseException:
                _rest(shared, regions)
                raise
            else:
                for region in regions:
                    shared.give_back(region)  # type: ignore[union-attr]
                return {name: result.as_numpy(name) for name in outputs}

    async def wait_until_loaded(
        self, model: str, timeout_s: float, on_wait: Callable[[int, int], Awaitable[None]] | None = None
    ) -> list[str]:
        """Wait until every server has loaded a model; returns their addresses.

        on_wait: told how many of how many servers have it, whenever that changes. Raises UnavailableError
        (MODEL_NOT_ON_EVERY_TRITON) that names the servers without it, and (TRITON_UNAVAILABLE).
        """
        deadline, told = time.monotonic() + timeout_s, (-1, -1)
        while True:
            endpoints = await self.endpoints()
            lacking = await self._lacking(model, endpoints)
            if not lacking:
                return endpoints
            if time.monotonic() > deadline:
                named = [f"{at} ({why or await self.at(at)._why_not_loaded(model)})" for at, why in lacking.items()]
                raise UnavailableError(
                    "MODEL_NOT_ON_EVERY_TRITON",
                    f"{model} is not loaded by {', '.join(named)}; the log of the reconciler beside it says more",
                )
            counts = (len(endpoints) - len(lacking), len(endpoints))
            if on_wait is not None and counts != told:
                await on_wait(*counts)
                told = counts
            await asyncio.sleep(_POLL_S)

    async def _lacking(self, model: str, endpoints: list[str]) -> dict[str, str]:
        """Servers without a model, each with the reason why it cannot be asked; empty where it just lacks it."""

        async def ask(endpoint: str) -> str | None:
            try:
                return None if await self.at(endpoint).is_loaded(model) else ""
            except UnavailableError as error:
                return error.message

        answers = await asyncio.gather(*(ask(endpoint) for endpoint in endpoints))
        return {endpoint: why for endpoint, why in zip(endpoints, answers, strict=True) if why is not None}

    async def _why_not_loaded(self, model: str) -> str:
        try:
            index = await self._client.get_model_repository_index(client_timeout=_CONTROL_TIMEOUT_S)
        except InferenceServerException as error:
            return _translate(error).message
        reasons = [entry.reason.partition("\n")[0] for entry in index.models if entry.name == model]
        return next(filter(None, reasons), "not loaded yet" if reasons else "not in its model repository")

    async def is_loaded(self, model: str) -> bool:
        """Whether a model answers."""
        try:
            return bool(await self._client.is_model_ready(model, client_timeout=_CONTROL_TIMEOUT_S))
        except InferenceServerException as error:
            raise _translate(error) from error

    async def loaded_models(self) -> frozenset[str]:
        """Names of the models that one server has loaded."""
        # Not the repository index: for that Triton asks the object store, and hangs while it is down.
        try:
            statistics = await self._client.get_inference_statistics(client_timeout=_CONTROL_TIMEOUT_S)
        except InferenceServerException as error:
            raise _translate(error) from error
        return frozenset(entry.name for entry in statistics.model_stats)

    async def load(self, model: str) -> None:
        """Load a model of the repository into one server, and wait until it answers.

        Raises FailedPreconditionError (MODEL_NOT_LOADABLE).
        """
        try:
            await self._client.load_model(model, client_timeout=self.settings.load_timeout_s)
        except InferenceServerException as error:
            if any(sign in str(error).lower() for sign in ("load failed", "failed to load", "failed to poll")):
                raise FailedPreconditionError(
                    "MODEL_NOT_LOADABLE", f"Triton cannot load {model}: {error.message()}"
                ) from error
            raise _translate(error) from error

    async def unload(self, model: str) -> None:
        """Unload a model from one server; nothing happens when it is not loaded."""
        try:
            await self._client.unload_model(model, client_timeout=self.settings.load_timeout_s)
        except InferenceServerException as error:
            raise _translate(error) from error


async def _tensor(
    name: str, array: np.ndarray, shared: SharedMemory | None, regions: list[Region]
) -> triton.InferInput:
    """regions: the one that is lent for it is added."""
    tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    region = None if shared is None else await shared.lend(array)
    if region is None:
        tensor.set_data_from_numpy(array)
    else:
        regions.append(region)
        tensor.set_shared_memory(region.name, array.nbytes)
    return tensor


def _rest(shared: SharedMemory | None, regions: list[Region]) -> None:
    for region in regions:
        assert shared is not None
        shared.rest(region)


def _translate(error: InferenceServerException) -> FlawsmithError:
    text = str(error.message() or "")
    match = _REASON.search(text)
    if match:
        # The python backend appends where in its code the error was raised.
        return ERRORS_BY_CODE[match[1]](match[2], match[3].partition("\n\nAt:\n")[0].strip())
    status: Any = error.status() or ""
    if "UNAVAILABLE" in status and ("is not ready" in text or "unknown model" in text):
        return UnavailableError("MODEL_NOT_LOADED", f"Triton has not loaded the model yet: {text}")
    if "UNAVAILABLE" in status or "DEADLINE_EXCEEDED" in status or "CANCELLED" in status:
        return UnavailableError("TRITON_UNAVAILABLE", "Triton does not answer; try again later")
    if "NOT_FOUND" in status or "unknown model" in text:
        return UnavailableError("MODEL_NOT_LOADED", f"Triton has not loaded the model yet: {text}")
    if "INVALID_ARGUMENT" in status:
        return InvalidArgumentError("TRITON_REFUSED", f"Triton refused the request: {text}")
    return UnavailableError("TRITON_FAILED", f"Triton failed: {text}; see its log, then try again")
