"""Blocking work inside a job, with progress and without outliving the job."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from flawsmith.common.jobs import Job

Result = TypeVar("Result")
Tell = Callable[[int, int], None]
"""(units done, units in all)."""


class _AbandonedError(Exception):
    """The job was cancelled while its thread still ran."""


async def in_thread(job: Job, stage: str, work: Callable[[Tell], Result]) -> Result:
    """Run `work(tell)` in a thread and show what it tells. A cancelled job's thread ends at its next word."""
    done, total = 0, 0
    abandoned = threading.Event()

    def tell(now: int, of: int) -> None:
        nonlocal done, total
        if abandoned.is_set():
            raise _AbandonedError
        done, total = now, of

    task = asyncio.ensure_future(asyncio.to_thread(work, tell))
    try:
        while not (await asyncio.wait({task}, timeout=0.5))[0]:
            await job.progress(stage, done, total)
        return task.result()
    finally:
        abandoned.set()
        # Nobody awaits an abandoned thread: its last words must not be reported as lost.
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
