"""Threads that callers share in turn, before a bounded queue."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

from flawsmith.common.errors import ResourceExhaustedError

Request = TypeVar("Request")
Result = TypeVar("Result")


class FairThreads:
    """Runs functions in a few threads; whoever waits gets one in turn with all others who wait.

    threads: how many run at once. places: calls that are taken and not answered yet, all callers together. A caller
    is given another place while he holds fewer than are free (the dynamic thresholds of Choudhury and Hahne, IEEE/ACM
    Transactions on Networking 6(2), 1998, with alpha 1): alone he gets half of them, of n busy callers each gets
    1/(n + 1), and whoever comes next still finds a place.
    Belongs to the event loop that first uses it.
    """

    def __init__(self, threads: int, places: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="compute")
        self._idle = threads
        self._places = places
        self._held: Counter[str] = Counter()
        # In the order of their turns; nobody is in here without waiting.
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @property
    def pending(self) -> int:
        """Places held, all callers together."""
        return self._held.total()

    @contextmanager
    def place(self, caller: str) -> Iterator[None]:
        """Hold a place from a call's arrival to its answer. Raises ResourceExhaustedError (QUEUE_FULL)."""
        if self._held[caller] >= self._places - self.pending:
            raise ResourceExhaustedError(
                "QUEUE_FULL",
                f"{self._held[caller]} calls of {caller} wait for an answer already, {self.pending} of all callers; "
                "send the call again later, or fewer at once",
                retry_after_s=1.0,
            )
        self._held[caller] += 1
        try:
            yield
        finally:
            self._held[caller] -= 1
            if not self._held[caller]:
                del self._held[caller]

    async def run(self, caller: str, function: Callable[..., Result], *args: Any) -> Result:
        """Run a function in a thread once it is the caller's turn. Who gives up while waiting costs nobody anything."""
        await self._turn(caller)
        loop = asyncio.get_running_loop()
        try:
            working = self._pool.submit(function, *args)
        except RuntimeError:
            self._pass_on()
            raise
        # When the thread is done, not when the caller has gone: a thread cannot be interrupted.
        working.add_done_callback(lambda _: loop.call_soon_threadsafe(self._pass_on))
        return await asyncio.wrap_future(working)

    async def stream(
        self,
        caller: str,
        requests: AsyncIterator[Request],
        work: Callable[[Request], Awaitable[Result]],
        *,
        window: int,
    ) -> AsyncIterator[Result]:
        """Answers in the order of the requests, as soon as each is there.

        window: requests that are worked on or whose answer was not fetched yet; no further ones are read meanwhile, so
        that whoever sends them is held up. The stream holds a place of its own (ResourceExhaustedError when there is
        none), and another for each further request at once; where there is none left it works on fewer at once.
        An error of `work` or `requests` comes after the answers to what was before it, and ends the stream.
        """
        answers: asyncio.Queue[asyncio.Future[Result] | None] = asyncio.Queue()
        free = asyncio.Semaphore(window)
        running: set[asyncio.Task[Result]] = set()

        async def read() -> None:
            try:
                async for request in requests:
                    await free.acquire()
                    place = await self._place_beside(running, caller)
                    task = asyncio.ensure_future(work(request))
                    running.add(task)
                    task.add_done_callback(lambda done, place=place: _ended(done, running, place))  # type: ignore[misc]
                    answers.put_nowait(task)
                answers.put_nowait(None)
            except Exception as error:
                failed = asyncio.get_running_loop().create_future()
                failed.set_exception(error)
                answers.put_nowait(failed)

        with self.place(caller):
            reader = asyncio.create_task(read())
            try:
                while (answer := await answers.get()) is not None:
                    result = await answer
                    free.release()
                    yield result
            finally:
                for task in (reader, *running):
                    task.cancel()

    async def _place_beside(self, running: set[asyncio.Task[Result]], caller: str) -> ExitStack:
        """A place for one more request of a stream, which has one of its own."""
        place = ExitStack()
        while running:
            try:
                place.enter_context(self.place(caller))
                break
            except ResourceExhaustedError:
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        return place

    async def _turn(self, caller: str) -> None:
        if self._idle:
            self._idle -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        """Give a thread that has become idle to the next caller who waits."""
        while self._waiting:
            caller, turns = next(iter(self._waiting.items()))
            turn = turns.popleft()
            del self._waiting[caller]
            if turns:
                self._waiting[caller] = turns  # behind all others
            if not turn.done():
                turn.set_result(None)
                return
        self._idle += 1


def _ended(task: asyncio.Task[Result], running: set[asyncio.Task[Result]], place: ExitStack) -> None:
    running.discard(task)
    place.close()
    if not task.cancelled():
        task.exception()  # nobody may be left to ask for it
