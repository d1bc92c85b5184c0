"""Inputs for a Triton on this machine, handed over in memory that both see instead of through a socket."""

from __future__ import annotations

import mmap
import os
import secrets
import time
from collections import defaultdict, deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

_FOLDER = Path("/dev/shm")  # noqa: S108  POSIX shared memory, which is what Triton opens
_LEAST_BYTES = 64 * 2**10
"""Smaller inputs go inline: a message of that size costs less than what registering may."""

_MOST_BYTES = 256 * 2**20
"""Of all regions together; what comes beyond goes inline."""

_RESTS_S = 60.0
"""A region of a call that was given up may still be read by Triton; it is not written to for so long."""


@dataclass(frozen=True)
class Region:
    """Memory that Triton has mapped under `name`."""

    name: str
    memory: mmap.mmap

    def put(self, array: np.ndarray) -> None:
        """Copy an array to the beginning."""
        np.frombuffer(self.memory, dtype=array.dtype, count=array.size)[:] = array.ravel()


class SharedMemory:
    """Regions for one Triton. Belongs to one event loop.

    A region has no name in the file system once Triton has mapped it, so none outlives the two processes.
    """

    def __init__(self, client: triton.InferenceServerClient) -> None:
        self._client = client
        self._works = _FOLDER.is_dir()
        self._free: defaultdict[int, list[Region]] = defaultdict(list)
        self._resting: deque[tuple[float, Region]] = deque()
        self._bytes = 0

    async def lend(self, array: np.ndarray) -> Region | None:
        """A region that holds the array; None where it should go inline."""
        if not self._works or array.nbytes < _LEAST_BYTES or array.dtype == np.object_:
            return None
        while self._resting and self._resting[0][0] < time.monotonic():
            self.give_back(self._resting.popleft()[1])
        size = 1 << (array.nbytes - 1).bit_length()
        region = self._free[size].pop() if self._free[size] else await self._make(size)
        if region is not None:
            region.put(array)
        return region

    def give_back(self, region: Region) -> None:
        """Triton has answered: the region may be written to."""
        self._free[len(region.memory)].append(region)

    def rest(self, region: Region) -> None:
        """The call was given up: Triton may still read."""
        self._resting.append((time.monotonic() + _RESTS_S, region))

    def forget(self) -> None:
        """Triton started anew and knows none of the regions."""
        self._free.clear()
        self._resting.clear()
        self._bytes = 0

    async def _make(self, size: int) -> Region | None:
        if self._bytes + size > _MOST_BYTES:
            return None
        name = f"flawsmith-{secrets.token_hex(8)}"
        path = _FOLDER / name
        self._bytes += size
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.posix_fallocate(file, 0, size)  # a full /dev/shm says so here, not by a signal later
                memory = mmap.mmap(file, size)
                await self._client.register_system_shared_memory(name, f"/{name}", size, client_timeout=2.0)
            finally:
                os.close(file)
                path.unlink()
        except (InferenceServerException, OSError) as error:
            self._bytes -= size
            # Another machine's or container's Triton has no such file, and never will.
            refused = isinstance(error, InferenceServerException) and "UNAVAILABLE" not in str(error.status())
            self._works = self._works and not refused
            return None
        return Region(name, memory)
