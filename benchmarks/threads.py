"""Do two threads draw twice as much as one? They cannot unless the drawing releases the GIL."""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import cache
from typing import Any

import cv2
import numpy as np

from benchmarks.figures import ratios, summary
from benchmarks.plates import plates
from flawsmith.augmentation.augment import augment

SIZE = (600, 200)


@cache
def _images() -> np.ndarray:
    return plates(4, *SIZE)


def _draw(method: str, seconds: float, seed: int) -> float:
    """Images a second of one worker. Runs in a thread, or in a process."""
    cv2.setNumThreads(1)
    images, rng, calls = _images(), np.random.default_rng(seed), 0
    start = time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        augment(images[calls % len(images)], rng, method=method)
        calls += 1
    return calls / elapsed


def _throughput(pool: Executor, workers: int, method: str, seconds: float) -> float:
    return sum(pool.map(_draw, [method] * workers, [seconds] * workers, range(workers)))


def measure(method: str, *, rounds: int, seconds: float) -> dict[str, Any]:
    """Images a second of one thread and of two, and the same of processes, which share no GIL: what the machine gives
    at that moment. Rounds in turn; gains pair by pair, and of the best rounds: whoever else computes on a machine of
    two cores takes nearly all of the gain, and never adds to it."""
    context = multiprocessing.get_context("spawn")
    found: dict[tuple[str, int], list[float]] = {}
    with ThreadPoolExecutor(2) as threads, ProcessPoolExecutor(2, mp_context=context) as processes:
        pools: dict[str, Executor] = {"threads": threads, "processes": processes}
        for pool in pools.values():
            _throughput(pool, 2, method, 1.0)  # imports, images, kernels
        for _ in range(rounds):
            for name, pool in pools.items():
                for workers in (1, 2):
                    found.setdefault((name, workers), []).append(_throughput(pool, workers, method, seconds))
    result: dict[str, Any] = {"size": "{}x{}".format(*SIZE), "method": method, "rounds": rounds}
    for name in pools:
        result[name] = {
            "one": summary(found[name, 1])["median"],
            "two": summary(found[name, 2])["median"],
            "gain": summary(ratios(found[name, 2], found[name, 1]), 2),
            "gain_of_best": round(max(found[name, 2]) / max(found[name, 1]), 2),
        }
    return result
