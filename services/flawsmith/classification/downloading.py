"""A data set's images as files of a worker."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from flawsmith.common.jobs import Job
from flawsmith.common.manifests import ObjectRef

_PARALLEL = 8


async def download(job: Job, refs: Sequence[ObjectRef], folder: Path) -> list[Path]:
    """Paths of the objects' files, in their order; one that is named twice is one file.

    Raises what the object store raises.
    """
    wanted = {ref.uri: ref for ref in refs}
    slots, done = asyncio.Semaphore(_PARALLEL), 0

    async def fetch(ref: ObjectRef) -> Path:
        nonlocal done
        async with slots:
            path = await asyncio.to_thread(job.platform.store.get_file, ref, folder / Path(ref.uri).name)
        done += 1
        if done % 50 == 0:
            await job.progress("download", done, len(wanted))
        return path

    await job.progress("download", 0, len(wanted))
    paths = dict(zip(wanted, await asyncio.gather(*(fetch(ref) for ref in wanted.values())), strict=True))
    return [paths[ref.uri] for ref in refs]
