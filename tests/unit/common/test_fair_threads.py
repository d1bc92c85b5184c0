"""Callers share the threads in turn, and nobody can fill the queue for others."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator

import pytest

from flawsmith.common.errors import ResourceExhaustedError
from flawsmith.common.fair_threads import FairThreads


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


async def numbers(count: int, sent: list[int]) -> AsyncIterator[int]:
    for number in range(count):
        sent.append(number)
        yield number


async def test_a_stream_answers_in_order_whatever_takes_longest() -> None:
    async def work(number: int) -> int:
        await asyncio.sleep(0.02 if number % 3 == 0 else 0)
        return number

    threads = FairThreads(1, 100)
    assert [n async for n in threads.stream("a", numbers(20, []), work, window=5)] == list(range(20))
    assert threads.pending == 0


async def test_a_stream_answers_before_the_next_request_comes() -> None:
    answered = asyncio.Event()

    async def requests() -> AsyncIterator[int]:
        yield 1
        await answered.wait()
        yield 2

    async def work(number: int) -> int:
        return number

    stream = FairThreads(1, 100).stream("a", requests(), work, window=5)
    assert await asyncio.wait_for(anext(stream), 5) == 1
    answered.set()
    assert await asyncio.wait_for(anext(stream), 5) == 2


async def test_a_stream_whose_answers_nobody_fetches_reads_no_more_than_its_window() -> None:
    sent: list[int] = []

    async def work(number: int) -> int:
        return number

    stream = FairThreads(1, 100).stream("a", numbers(50, sent), work, window=4)
    assert await anext(stream) == 0
    await asyncio.sleep(0.05)
    # One was fetched, and the one after the window is held in the hand.
    assert len(sent) <= 4 + 2
    await stream.aclose()


async def test_an_error_comes_after_the_answers_before_it_and_ends_the_stream() -> None:
    begun: list[int] = []

    async def work(number: int) -> int:
        begun.append(number)
        if number == 3:
            raise ValueError("three")
        await asyncio.sleep(0.02)
        return number

    threads = FairThreads(1, 100)
    stream = threads.stream("a", numbers(100, []), work, window=5)
    assert [await anext(stream) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        await anext(stream)
    await asyncio.sleep(0.05)
    assert len(begun) < 20
    assert threads.pending == 0


async def test_a_stream_works_on_fewer_at_once_where_places_are_short() -> None:
    at_once = most = 0

    async def work(number: int) -> int:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.001)
        at_once -= 1
        return number

    threads = FairThreads(1, 8)
    assert len([n async for n in threads.stream("a", numbers(30, []), work, window=16)]) == 30
    assert 1 < most <= 4
    with contextlib.ExitStack() as stack:
        hold(threads, "a", stack)
        with pytest.raises(ResourceExhaustedError):
            await anext(threads.stream("a", numbers(1, []), work, window=16))
        # Another caller's stream gets through.
        assert len([n async for n in threads.stream("b", numbers(5, []), work, window=16)]) == 5


async def test_a_stream_that_is_left_leaves_nothing_behind() -> None:
    cancelled = 0

    async def work(number: int) -> int:
        nonlocal cancelled
        try:
            await asyncio.sleep(0 if number == 0 else 60)
        except asyncio.CancelledError:
            cancelled += 1
            raise
        return number

    threads = FairThreads(1, 100)
    stream = threads.stream("a", numbers(50, []), work, window=4)
    assert await anext(stream) == 0
    await asyncio.sleep(0.01)
    await stream.aclose()
    await asyncio.sleep(0.01)
    assert cancelled == 4
    assert threads.pending == 0
