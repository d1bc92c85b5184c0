"""Triton: inference, and explicit model control."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import numpy as np
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from flawsmith.common.errors import (
    AbortedError,
    FailedPreconditionError,
    FlawsmithError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)
from flawsmith.common.settings import TritonSettings

_REASON = re.compile(r"\b(INVALID_ARGUMENT|NOT_FOUND|FAILED_PRECONDITION|ABORTED)/([A-Z][A-Z0-9_]+): (.*)", re.DOTALL)
_MODEL_ERRORS: dict[str, type[FlawsmithError]] = {
    "INVALID_ARGUMENT": InvalidArgumentError,
    "NOT_FOUND": NotFoundError,
    "FAILED_PRECONDITION": FailedPreconditionError,
    "ABORTED": AbortedError,
}


class TritonClient:
    """One Triton server.

    Our model code raises errors as `CODE/REASON: message`, which come back as our domain errors; a server that does
    not answer is UnavailableError (TRITON_UNAVAILABLE).
    """

    def __init__(self, settings: TritonSettings) -> None:
        self.settings = settings
        self._client = triton.InferenceServerClient(
            url=settings.url,
            channel_args=[
                ("grpc.max_send_message_length", -1),
                ("grpc.max_receive_message_length", -1),
                # A server that comes back is found within seconds, not minutes.
                ("grpc.max_reconnect_backoff_ms", 2000),
            ],
        )
        self._loading = asyncio.Lock()

    async def close(self) -> None:
        """Close the channel."""
        await self._client.close()

    async def check(self) -> None:
        """Raise unless the server is ready."""
        try:
            ready = await self._client.is_server_ready(client_timeout=3.0)
        except InferenceServerException as error:
            raise _translate(error) from error
        if not ready:
            raise UnavailableError("TRITON_UNAVAILABLE", "Triton is not ready; try again later")

    async def infer(
        self, model: str, inputs: dict[str, np.ndarray], outputs: list[str], *, timeout_s: float | None = None
    ) -> dict[str, np.ndarray]:
        """Run a model. Arrays keep their dtypes (object arrays of bytes become BYTES).

        A model that the server has in its repository but not loaded (the server started anew) is loaded first.
        """
        tensors = []
        for name, array in inputs.items():
            tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
            tensor.set_data_from_numpy(array)
            tensors.append(tensor)
        wanted = [triton.InferRequestedOutput(name) for name in outputs]
        limit = timeout_s or self.settings.infer_timeout_s
        try:
            result = await self._client.infer(model, tensors, outputs=wanted, client_timeout=limit)
        except InferenceServerException as error:
            translated = _translate(error)
            if translated.reason != "MODEL_NOT_LOADED":
                raise translated from error
            await self.ensure_loaded(model)
            try:
                result = await self._client.infer(model, tensors, outputs=wanted, client_timeout=limit)
            except InferenceServerException as again:
                raise _translate(again) from again
        return {name: result.as_numpy(name) for name in outputs}

    async def ensure_loaded(self, model: str) -> None:
        """Load a model unless it is loaded. Raises FailedPreconditionError (MODEL_NOT_LOADABLE)."""
        async with self._loading:
            if not await self.is_loaded(model):
                await self.load(model)

    async def load(self, model: str) -> None:
        """Load a model of the repository, and wait until it answers."""
        try:
            await self._client.load_model(model, client_timeout=self.settings.load_timeout_s)
        except InferenceServerException as error:
            if "failed to load" in str(error).lower() or "failed to poll" in str(error).lower():
                raise FailedPreconditionError(
                    "MODEL_NOT_LOADABLE", f"Triton cannot load {model}: {error.message()}"
                ) from error
            raise _translate(error) from error

    async def unload(self, model: str) -> None:
        """Unload a model; nothing happens when it is not loaded."""
        try:
            await self._client.unload_model(model, client_timeout=self.settings.load_timeout_s)
        except InferenceServerException as error:
            raise _translate(error) from error

    async def is_loaded(self, model: str) -> bool:
        """Whether a model answers."""
        try:
            return bool(await self._client.is_model_ready(model, client_timeout=3.0))
        except InferenceServerException as error:
            raise _translate(error) from error


def _translate(error: InferenceServerException) -> FlawsmithError:
    text = str(error.message() or "")
    match = _REASON.search(text)
    if match:
        # The python backend appends where in its code the error was raised.
        return _MODEL_ERRORS[match[1]](match[2], match[3].partition("\n\nAt:\n")[0].strip())
    status: Any = error.status() or ""
    if "UNAVAILABLE" in status and ("is not ready" in text or "unknown model" in text):
        return FailedPreconditionError("MODEL_NOT_LOADED", f"Triton has not loaded the model: {text}")
    if "UNAVAILABLE" in status or "DEADLINE_EXCEEDED" in status or "CANCELLED" in status:
        return UnavailableError("TRITON_UNAVAILABLE", "Triton does not answer; try again later")
    if "NOT_FOUND" in status or "unknown model" in text:
        return FailedPreconditionError("MODEL_NOT_LOADED", f"Triton has not loaded the model: {text}")
    if "INVALID_ARGUMENT" in status:
        return InvalidArgumentError("TRITON_REFUSED", f"Triton refused the request: {text}")
    return UnavailableError("TRITON_FAILED", f"Triton failed: {text}; see its log, then try again")
