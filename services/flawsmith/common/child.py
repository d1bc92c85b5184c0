"""Long computations run in a child process without a gRPC channel: grpc and fork crash each other, and a process
can be killed at any time where a thread cannot.

The worker writes one JSON specification to the child's stdin and reads JSON lines from its stdout:
progress, checkpoints, and at last a result or an error. The child dies with its parent.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from flawsmith.common.errors import (
    ERRORS_BY_CODE,
    AbortedError,
    FieldViolation,
    FlawsmithError,
    ResourceExhaustedError,
)

Spec = TypeVar("Spec", bound=BaseModel)
_PR_SET_PDEATHSIG = 1
_PROGRESS_INTERVAL_S = 0.2
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
COMPUTE_ENVIRONMENT = {
    # glibc's defaults give large activations back to the kernel at every step; keeping them is up to 5x faster.
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
    # Threads that spin while they wait take the cores from whoever else computes on the machine: two training
    # processes on two cores were ten times slower than one.
    "OMP_WAIT_POLICY": "PASSIVE",
}


class Reporter:
    """What a child tells its worker."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._last = 0.0
        self._stage = ""

    def progress(self, stage: str, step: int, total: int, loss: float | None = None) -> None:
        """Say where the work stands; calls that come too fast are dropped, a stage's first and last are not."""
        now = time.monotonic()
        if stage == self._stage and step < total and now - self._last < _PROGRESS_INTERVAL_S:
            return
        self._stage, self._last = stage, now
        self.emit({"event": "progress", "stage": stage, "step": step, "total": total, "loss": loss})

    def checkpoint(self, path: Path, step: int) -> None:
        """Say that a checkpoint file is complete."""
        self.emit({"event": "checkpoint", "path": str(path), "step": step})

    def emit(self, event: dict[str, Any]) -> None:
        """Write one event."""
        self._stream.write(json.dumps(event) + "\n")
        self._stream.flush()


def child_main(spec_model: type[Spec], run: Callable[[Spec, Reporter], dict[str, Any]]) -> None:
    """Entry of a child process: read the specification, run, write the result or the error, exit."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # Prints of libraries must not mix with events.
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    reporter = Reporter(stream)
    try:
        spec = spec_model.model_validate_json(sys.stdin.readline())
        result = run(spec, reporter)
    except FlawsmithError as error:
        reporter.emit({"event": "error", **error_to_dict(error)})
        sys.exit(2)
    except MemoryError:
        full = ResourceExhaustedError("OUT_OF_MEMORY", "the work needs more memory; use a smaller batch or image")
        reporter.emit({"event": "error", **error_to_dict(full)})
        sys.exit(2)
    except OSError as failure:
        if not is_disk_full(failure):
            raise
        full = ResourceExhaustedError("DISK_FULL", "the worker's disk is full; free some space, then start again")
        reporter.emit({"event": "error", **error_to_dict(full)})
        sys.exit(2)
    reporter.emit({"event": "result", **result})


def is_disk_full(error: OSError) -> bool:
    """Whether a disk, or this user's share of it, is full."""
    return error.errno in _DISK_FULL


async def run_child(
    module: str,
    spec: BaseModel,
    *,
    on_event: Callable[[dict[str, Any]], Awaitable[None]],
    environment: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Run `python -m module` with a specification and return its result.

    on_event is awaited for each progress and checkpoint event. Cancelling the task kills the child.
    Raises the child's FlawsmithError, or AbortedError (CHILD_DIED) with the end of its stderr in the log.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **COMPUTE_ENVIRONMENT, **(environment or {})}, limit=2**24,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    errors = asyncio.create_task(_tail(process.stderr))
    try:
        process.stdin.write(spec.model_dump_json().encode() + b"\n")
        await process.stdin.drain()
        last: dict[str, Any] = {}
        async for line in process.stdout:
            event = json.loads(line)
            if event["event"] in ("result", "error"):
                last = event
            else:
                await on_event(event)
        code = await process.wait()
    except (BrokenPipeError, ConnectionResetError):
        code, last = await process.wait(), {}
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    tail = await errors
    kind = last.pop("event", None)
    if kind == "result" and code == 0:
        return last
    if kind == "error":
        raise error_from_dict(last)
    print(tail, file=sys.stderr)
    if code == -signal.SIGKILL:
        raise ResourceExhaustedError(
            "CHILD_KILLED", "the computation was killed, most often for want of memory; use a smaller batch or image"
        )
    raise AbortedError(
        "CHILD_DIED", f"the computation ended with exit code {code}; the worker's log has its last words"
    )


async def _tail(stream: asyncio.StreamReader, keep: int = 8000) -> str:
    text = b""
    while chunk := await stream.read(4096):
        text = (text + chunk)[-keep:]
    return text.decode(errors="replace")


def error_to_dict(error: FlawsmithError) -> dict[str, Any]:
    """An error as JSON values."""
    return {
        "code": error.code,
        "reason": error.reason,
        "message": error.message,
        "fields": [[violation.field, violation.description] for violation in error.fields],
        "retry_after_s": error.retry_after_s,
    }


def error_from_dict(values: dict[str, Any]) -> FlawsmithError:
    """The error that `error_to_dict` wrote."""
    cls = ERRORS_BY_CODE.get(values["code"], AbortedError)
    error = cls(values["reason"], values["message"])
    error.fields = tuple(FieldViolation(*entry) for entry in values.get("fields", ()))
    error.retry_after_s = values.get("retry_after_s")
    return error
