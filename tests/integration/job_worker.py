"""A worker process whose jobs leave traces in files, for the tests of durable jobs.

python job_worker.py EXECUTOR    settings come from the environment
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from flawsmith.common.checkpoints import Checkpoints
from flawsmith.common.errors import InvalidArgumentError, UnavailableError
from flawsmith.common.jobs import Job, Worker, Workflow
from flawsmith.common.process import Platform
from flawsmith.common.settings import Settings


class TraceSpec(BaseModel):
    """folder: where traces go. steps: how many. seconds: how long each takes. fail_at: the step that raises."""

    folder: Path
    steps: int = 3
    seconds: float = 0.1
    fail_at: int = -1


async def trace(job: Job, spec: TraceSpec) -> dict[str, Any]:
    """Each step appends its number and this process's id to `trace`, at its begin and at its end."""

    async def one(number: int) -> str:
        with (spec.folder / "trace").open("a") as out:
            out.write(f"begin {number} {os.getpid()}\n")
        if number == spec.fail_at:
            raise InvalidArgumentError("TRACE_FAILED", "choose another step to fail at")
        await asyncio.sleep(spec.seconds)
        with (spec.folder / "trace").open("a") as out:
            out.write(f"end {number} {os.getpid()}\n")
        return f"{number} by {os.getpid()}"

    done = []
    for number in range(spec.steps):
        await job.progress("trace", number, spec.steps)
        done.append(await job.step("one", one, number))
    return {"done": done}


async def checkpointed(job: Job, spec: TraceSpec) -> dict[str, Any]:
    """One long step that writes a checkpoint after each of its parts, and goes on from the newest."""

    async def work() -> int:
        checkpoints = Checkpoints(job.platform.store, job.operation)
        async with job.folder() as folder:
            newest = await asyncio.to_thread(checkpoints.newest, folder / "newest")
            for number in range(int(newest.read_text()) if newest else 0, spec.steps):
                with (spec.folder / "trace").open("a") as out:
                    out.write(f"begin {number} {os.getpid()}\n")
                if number == spec.fail_at:
                    raise InvalidArgumentError("TRACE_FAILED", "choose another step to fail at")
                await asyncio.sleep(spec.seconds)
                (folder / "checkpoint").write_text(str(number + 1))
                await asyncio.to_thread(checkpoints.keep, folder / "checkpoint", number + 1)
        return spec.steps

    return {"done": await job.step("work", work)}


async def outage(job: Job, spec: TraceSpec) -> dict[str, Any]:
    """A dependency that is down until `up` exists."""

    async def use() -> str:
        if not (spec.folder / "up").exists():
            raise UnavailableError("TRACE_DOWN", "the dependency is down")
        return "used"

    return {"result": await job.step("use", use)}


async def broken(job: Job, spec: TraceSpec) -> dict[str, Any]:
    """An error that nobody foresaw."""
    raise RuntimeError("secret inside")


WORKFLOWS = {
    name: Workflow(run=run, spec=TraceSpec)
    for name, run in {"trace": trace, "checkpointed": checkpointed, "outage": outage, "broken": broken}.items()
}


async def main() -> None:
    settings = Settings()
    settings.jobs.executor_id = sys.argv[1]
    worker = Worker("tests", settings, WORKFLOWS, Platform("tests", settings))
    await asyncio.to_thread(worker.start)
    await worker.watch()


if __name__ == "__main__":
    asyncio.run(main())
