"""Work that is given up is given up at once."""

import threading
import time

import pytest

from flawsmith.assembly.reading import AT_ONCE, a_few_at_once


def test_results_come_in_order_and_few_at_once() -> None:
    running, most, lock = 0, 0, threading.Lock()

    def work(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.002 * (number % 3))
        with lock:
            running -= 1
        return number * number

    with a_few_at_once(work, range(40)) as results:
        assert list(results) == [number * number for number in range(40)]
    assert most <= AT_ONCE


def test_an_exception_in_the_loop_cancels_the_rest() -> None:
    begun = []

    def work(number: int) -> int:
        begun.append(number)
        time.sleep(0.01)
        return number

    def stop_at_the_first() -> None:
        with a_few_at_once(work, range(1000)) as results:
            for _ in results:
                raise KeyError

    with pytest.raises(KeyError):
        stop_at_the_first()
    assert len(begun) < 30


def test_an_exception_in_the_work_is_raised() -> None:
    def work(number: int) -> int:
        raise ValueError(number)

    with pytest.raises(ValueError, match="0"), a_few_at_once(work, range(5)) as results:
        list(results)
