"""Fewer rows at once where memory runs out, and nothing that was computed in vain is held meanwhile."""

from __future__ import annotations

import weakref

import pytest
import torch

from flawsmith.common.errors import ResourceExhaustedError
from flawsmith.generation.memory import in_parts, out_of_memory


def test_the_allocator_of_the_cpu_is_understood() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert out_of_memory(caught.value)
    assert not out_of_memory(RuntimeError("size mismatch"))


def test_a_part_that_did_not_fit_is_let_go_before_the_next_try() -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def compute(rows: slice) -> list[int]:
        assert all(tensor() is None for tensor in held)
        activations = torch.zeros(4)
        held.append(weakref.ref(activations))
        if rows.stop - rows.start > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return list(range(rows.start, rows.stop))

    assert in_parts(compute, 7, 5) == [[0, 1], [2, 3], [4, 5], [6]]


def test_what_is_no_want_of_memory_passes_and_one_row_too_much_is_said() -> None:
    def broken(rows: slice) -> None:
        raise RuntimeError("size mismatch")

    def full(rows: slice) -> None:
        raise MemoryError

    with pytest.raises(RuntimeError, match="size mismatch"):
        in_parts(broken, 2, 2)
    with pytest.raises(ResourceExhaustedError, match="smaller height and width"):
        in_parts(full, 3, 2)
