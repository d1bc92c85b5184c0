"""Callers share the threads in turn, and nobody can fill the queue for others."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time

import pytest

from flawsmith.augmentation.fair_threads import FairThreads
from flawsmith.common.errors import ResourceExhaustedError


async def started(tasks: list[asyncio.Task]) -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_callers_take_turns() -> None:
    threads, order, gate = FairThreads(1, 100), [], threading.Event()
    first = asyncio.create_task(threads.run("a", gate.wait))
    await asyncio.sleep(0.01)
    calls = [("a", n) for n in range(6)] + [("b", n) for n in range(2)] + [("c", 0)]
    tasks = [asyncio.create_task(threads.run(caller, order.append, (caller, n))) for caller, n in calls]
    await started(tasks)
    gate.set()
    await asyncio.gather(first, *tasks)
    assert order == [
        ("a", 0), ("b", 0), ("c", 0), ("a", 1), ("b", 1), ("a", 2), ("a", 3), ("a", 4), ("a", 5),
    ]  # fmt: skip


async def test_as_many_at_once_as_there_are_threads() -> None:
    threads, at_once, most, lock = FairThreads(3, 100), 0, 0, threading.Lock()

    def work() -> None:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.01)
        with lock:
            at_once -= 1

    await asyncio.gather(*(threads.run(f"caller {n % 4}", work) for n in range(24)))
    assert most == 3


async def test_results_and_errors_come_back() -> None:
    threads = FairThreads(1, 10)
    assert await threads.run("a", divmod, 17, 5) == (3, 2)
    with pytest.raises(ZeroDivisionError):
        await threads.run("a", divmod, 1, 0)
    assert await threads.run("a", divmod, 17, 5) == (3, 2)


async def test_who_gives_up_keeps_no_thread_and_no_turn() -> None:
    threads, gate, done = FairThreads(1, 100), threading.Event(), []
    running = asyncio.create_task(threads.run("a", gate.wait))
    await asyncio.sleep(0.01)
    gone = [asyncio.create_task(threads.run("a", done.append, "gone")) for _ in range(5)]
    stays = asyncio.create_task(threads.run("b", done.append, "stays"))
    await started(gone)
    for task in (running, *gone):
        task.cancel()
    await asyncio.sleep(0.01)
    # The thread still works for a caller who has left; until it is done there is none for others.
    assert not stays.done()
    gate.set()
    await asyncio.wait_for(stays, 5)
    assert done == ["stays"]
    assert await asyncio.wait_for(threads.run("c", divmod, 17, 5), 5) == (3, 2)


async def test_whoever_is_given_a_turn_while_leaving_passes_it_on() -> None:
    threads, gate = FairThreads(1, 100), threading.Event()
    running = asyncio.create_task(threads.run("a", gate.wait))
    await asyncio.sleep(0.01)
    leaves = asyncio.create_task(threads.run("a", divmod, 17, 5))
    await started([leaves])
    gate.set()
    time.sleep(0.1)  # blocks the loop: the thread is done and its turn on its way ...  # noqa: ASYNC251
    asyncio.get_running_loop().call_soon(leaves.cancel)  # ... when the caller leaves
    with contextlib.suppress(asyncio.CancelledError):
        await leaves
    assert leaves.cancelled()
    await running
    assert await asyncio.wait_for(threads.run("c", divmod, 17, 5), 5) == (3, 2)


def hold(threads: FairThreads, caller: str, stack: contextlib.ExitStack) -> int:
    """Take places until none is given; how many there were."""
    taken = 0
    with contextlib.suppress(ResourceExhaustedError):
        while True:
            stack.enter_context(threads.place(caller))
            taken += 1
    return taken


def test_one_caller_gets_half_of_the_places_and_others_share_the_rest() -> None:
    threads = FairThreads(1, 64)
    with contextlib.ExitStack() as stack:
        assert hold(threads, "a", stack) == 32
        assert hold(threads, "b", stack) == 16
        assert hold(threads, "c", stack) == 8
        assert threads.pending == 56
        with pytest.raises(ResourceExhaustedError) as caught:
            threads.place("a").__enter__()
        assert caught.value.reason == "QUEUE_FULL"
        assert caught.value.retry_after_s > 0
    assert threads.pending == 0
    with contextlib.ExitStack() as stack:
        assert hold(threads, "a", stack) == 32
