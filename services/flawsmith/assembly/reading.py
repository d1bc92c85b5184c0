"""Read and decode many files, a few at once: neither the store nor a decoder should wait for the other."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

AT_ONCE = 4


@contextmanager
def a_few_at_once(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Iterator[Result]]:
    """Results in the items' order. Leaving the block early, also by an exception, gives up what was not begun."""
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        with closing(_results(pool, work, items)) as results:
            yield results
    finally:
        pool.shutdown(cancel_futures=True)


def _results(
    pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: Sequence[Item]
) -> Generator[Result, None, None]:
    yield from pool.map(work, items)
