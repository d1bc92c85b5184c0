"""Two programs timed in turn: each is a process that answers rounds, one JSON line for a line.

A round draws into the same images again and again, for so many seconds or calls. Only the drawing is timed; between
two calls the result is checked, and a side that returns no defect, or touches pixels outside of its mask, has failed.
This module runs in the peers' environments too and imports nothing but NumPy.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import numpy as np

ROOT = Path(__file__).parents[1]
Image = TypeVar("Image")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Request:
    """What to draw. images: .npy file of uint8, N x height x width x 3 RGB, or N x height x width grey.

    method: by name, for sides that have several. seconds, calls: the round ends with the one that is reached first.
    """

    images: str
    method: str = ""
    seconds: float = float("inf")
    calls: int = sys.maxsize
    seed: int = 0


@dataclass(frozen=True)
class Round:
    """What a round took. calls: images drawn and checked. seconds, cpu_seconds: of the drawing alone, by the clock and
    by the process's time on all cores. defect_share: mean share of the pixels that the masks mark."""

    calls: int
    seconds: float
    cpu_seconds: float
    defect_share: float

    @property
    def images_per_s(self) -> float:
        """Images a second of drawing."""
        return self.calls / self.seconds

    @property
    def images_per_cpu_s(self) -> float:
        """Images a second of the processor's time: what the clock would say on a machine that nobody else uses."""
        return self.calls / self.cpu_seconds

    @property
    def cores(self) -> float:
        """Cores that were busy while it drew: 1 or less for one thread."""
        return self.cpu_seconds / self.seconds


class Subject(Protocol[Image, Made]):
    """What is timed."""

    def prepare(self, image: np.ndarray) -> Image:
        """A uint8 image as the side's users hold it in memory; not timed."""

    def seed(self, seed: int) -> None:
        """Start the random numbers of a round; not timed."""

    def draw(self, image: Image, method: str) -> Made:
        """Draw one defect; timed."""

    def arrays(self, image: Image, made: Made) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image before, image after (height x width, x channels or not), mask (bool, height x width); not timed."""


class CheckFailedError(Exception):
    """A side returned something that is no augmented image."""


def check(before: np.ndarray, after: np.ndarray, mask: np.ndarray) -> float:
    """Share of the pixels that the mask marks.

    Raises CheckFailedError unless the mask marks something, something within it changed, and nothing outside of it.
    """
    if after.shape != before.shape or mask.shape != before.shape[:2]:
        raise CheckFailedError(f"shapes: {before.shape} became {after.shape}, mask {mask.shape}")
    if not mask.any():
        raise CheckFailedError("the mask is empty: no defect was drawn")
    channels = zip(np.moveaxis(np.atleast_3d(before), 2, 0), np.moveaxis(np.atleast_3d(after), 2, 0), strict=True)
    changed = np.logical_or.reduce([old != new for old, new in channels])
    if not (changed & mask).any():
        raise CheckFailedError(f"nothing changed within the mask of {int(mask.sum())} pixels")
    if (changed & ~mask).any():
        raise CheckFailedError(f"{int((changed & ~mask).sum())} pixels changed outside of the mask")
    return float(mask.mean())


def run_round(subject: Subject[Image, Made], images: list[Image], request: Request) -> Round:
    """One round of a subject in this process. Raises CheckFailedError."""
    subject.seed(request.seed)
    calls, seconds, cpu_seconds, share = 0, 0.0, 0.0, 0.0
    while seconds < request.seconds and calls < request.calls:
        image = images[calls % len(images)]
        cpu, start = time.process_time(), time.perf_counter()
        made = subject.draw(image, request.method)
        seconds += time.perf_counter() - start
        cpu_seconds += time.process_time() - cpu
        share += check(*subject.arrays(image, made))
        calls += 1
    return Round(calls, seconds, cpu_seconds, share / calls)


def serve(subject: Subject[Any, Any]) -> None:
    """Answer rounds until stdin ends. For the child; what libraries print goes to stderr."""
    answers, sys.stdout = sys.stdout, sys.stderr
    path, images = "", []
    for line in sys.stdin:
        request = Request(**json.loads(line))
        if request.images != path:
            path, images = request.images, [subject.prepare(image) for image in np.load(request.images)]
        try:
            answer = asdict(run_round(subject, images, request))
        except CheckFailedError as error:
            answer = {"failed": str(error)}
        print(json.dumps(answer), file=answers, flush=True)


class Side:
    """A child process that serves a subject. python: its interpreter. module: its program."""

    def __init__(self, name: str, python: Path, module: str, environment: dict[str, str]) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [python, "-m", module], cwd=ROOT, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def round(self, request: Request) -> Round:
        """Have it run a round. Raises CheckFailedError, and RuntimeError when it has died."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(request)) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with exit code {self._process.wait()}; its messages are above")
        answer = json.loads(line)
        if "failed" in answer:
            raise CheckFailedError(f"{self.name}: {answer['failed']}")
        return Round(**answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()


def alternate(turns: Mapping[str, tuple[Side, Request]], rounds: int) -> dict[str, list[Round]]:
    """Rounds in turn, by the names of `turns`, after one round each that does not count.

    In turn, because a shared machine's speed drifts over seconds: what disturbs one side disturbs the other.
    """
    results: dict[str, list[Round]] = {name: [] for name in turns}
    for side, request in turns.values():
        side.round(request)
    for _ in range(rounds):
        for name, (side, request) in turns.items():
            results[name].append(side.round(request))
    return results
