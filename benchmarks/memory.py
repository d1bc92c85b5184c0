"""How much memory does a call take, and does it give all of it back?"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np

from benchmarks.plates import plate_of_any_size, plates
from flawsmith.augmentation.augment import augment

Result = TypeVar("Result")
GROWTH_SIZE = (600, 200)
_WARM_UP = 200


def resident(field: str) -> int:
    """Bytes of this process. field: VmRSS (now) or VmHWM (most so far)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(f"/proc/self/status has no {field}")


def _forget_peak() -> None:
    """Let VmHWM start anew from what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


def _draw(images: np.ndarray, method: str, calls: int) -> None:
    for seed in range(calls):
        augment(images[seed % len(images)], np.random.default_rng(seed), method=method)


def _peak(method: str, height: int, width: int, calls: int) -> int:
    """Most bytes that calls took beyond what was resident before them, the input not counted, the result counted."""
    cv2.setNumThreads(1)
    _draw(plates(1, 64, 64), method, 50)  # code and tables, which stay
    images = plate_of_any_size(height, width)
    before = resident("VmRSS")
    _forget_peak()
    _draw(images, method, calls)
    return resident("VmHWM") - before


def _growth(method: str, height: int, width: int, calls: int) -> int:
    """Bytes by which the process's peak grew over so many calls after the first 200."""
    cv2.setNumThreads(1)
    images = plates(4, height, width)
    _draw(images, method, _WARM_UP)
    before = resident("VmHWM")
    _draw(images, method, calls)
    return resident("VmHWM") - before


def _apart(function: Callable[..., Result], *arguments: Any) -> Result:
    """In a process of its own, so that nobody's leftovers count."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def measure(methods: Sequence[str], *, sides: Sequence[int], calls: int) -> dict[str, Any]:
    """By method: bytes a pixel that a call takes at its peak at each size, and the growth over `calls` calls
    at 600 x 200.

    A peak is that of eight calls: what is drawn differs, and so do the temporary arrays.
    """
    return {
        "calls": calls,
        "methods": {
            method: {
                "peak_bytes_per_pixel": {
                    f"{side}x{side}": round(_apart(_peak, method, side, side, 8) / side**2, 1) for side in sides
                },
                "growth_bytes": _apart(_growth, method, *GROWTH_SIZE, calls),
            }
            for method in methods
        },
    }
