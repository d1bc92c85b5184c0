"""One training on several devices: process 0 starts the others, which read the same specification and share batches.

Accelerate finds the environment variables that torchrun would set.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed

from flawsmith.classification.spec import TrainingSpec

_RANK = "RANK"


def is_peer() -> bool:
    """Whether this process is one of the others."""
    return os.environ.get(_RANK, "0") != "0"


def count_processes(spec: TrainingSpec, batch_size: int) -> int:
    """How many processes train: as many as the specification says, else one a GPU; two images or more for each."""
    wanted = spec.processes or max(1, torch.cuda.device_count())
    return max(1, min(wanted, batch_size // 2))


@contextmanager
def peers(spec: TrainingSpec, count: int) -> Iterator[None]:
    """Processes 1 to count - 1 run while the body does, and have ended after it; nothing where count is 1, and in them.

    A body that raises ends them.
    """
    if count == 1 or is_peer():
        yield
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}

    def rank(index: int) -> dict[str, str]:
        return {**shared, _RANK: str(index), "LOCAL_RANK": str(index)}

    started: list[subprocess.Popen[bytes]] = []
    try:
        for index in range(1, count):
            process = subprocess.Popen(
                [sys.executable, "-m", "flawsmith.classification.training"],
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env={**os.environ, **rank(index)},
            )  # fmt: skip
            started.append(process)
            assert process.stdin is not None
            process.stdin.write(spec.model_dump_json().encode() + b"\n")
            process.stdin.close()
        os.environ.update(rank(0))
        yield
        for process in started:
            process.wait()
    finally:
        for process in started:
            process.kill()
            process.wait()
        for name in rank(0):
            os.environ.pop(name, None)
        if distributed.is_initialized():
            distributed.destroy_process_group()
