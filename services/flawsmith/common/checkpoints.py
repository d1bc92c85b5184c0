"""Checkpoints of long steps: what a worker goes on from where another was killed.

They lie in the object store at `checkpoints/{operation}/{step}.pt` as long as their operation runs. No job forgets its
own: one that is cancelled while no worker has it runs no more, and a worker that was taken for dead may store one after
the end. Every API server looks instead which operations have ended.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from flawsmith.common import telemetry
from flawsmith.common.errors import FlawsmithError, NotFoundError
from flawsmith.common.jobs import JobClient
from flawsmith.common.object_store import ObjectStore

_LOG = telemetry.log(__name__)
_ROOT = "checkpoints/"


class Checkpoints:
    """Of one operation. Methods block; async code uses `asyncio.to_thread`. All raise what the object store raises."""

    def __init__(self, store: ObjectStore, operation: str) -> None:
        self._store = store
        self._prefix = f"{_ROOT}{operation}/"

    def keep(self, file: Path, step: int) -> None:
        """Store a checkpoint that was written after so many steps, then forget those of fewer."""
        key = f"{self._prefix}{step:08d}.pt"
        self._store.put(key, file.read_bytes())
        for former in self._keys():
            if former < key:
                self._store.delete_key(former)

    def newest(self, file: Path) -> Path | None:
        """Write the checkpoint of most steps to `file` and return that; None where there is none."""
        for key in reversed(self._keys()):
            with contextlib.suppress(NotFoundError):  # a slower worker forgot it meanwhile
                file.write_bytes(self._store.get_key(key))
                return file
        return None

    def forget(self) -> None:
        """Delete all."""
        for key in self._keys():
            self._store.delete_key(key)

    def _keys(self) -> list[str]:
        return sorted(self._store.list_keys(self._prefix))


async def forget_ended(store: ObjectStore, jobs: JobClient) -> None:
    """Delete the checkpoints of a service's operations soon after those have ended, well or not, until cancelled."""

    def operations() -> set[str]:
        return {key.split("/")[1] for key in store.list_keys(f"{_ROOT}{jobs.service}-")}

    while True:
        try:
            for operation in await asyncio.to_thread(operations):
                with contextlib.suppress(NotFoundError):  # of a job database that was made anew since
                    if await jobs.is_done(operation):
                        await asyncio.to_thread(Checkpoints(store, operation).forget)
        except FlawsmithError as error:
            _LOG.warning("checkpoints cannot be looked through", problem=error.message)
        await asyncio.sleep(jobs.settings.jobs.heartbeat_s)
