"""Work of many rows on a device whose memory may not suffice for all of them at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from flawsmith.common.errors import ResourceExhaustedError

Part = TypeVar("Part")
OUT_OF_MEMORY = "OUT_OF_MEMORY"


def out_of_memory(error: Exception) -> bool:
    """Devices have an exception of its own for it; torch's allocator for the CPU has only words."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def in_parts(compute: Callable[[slice], Part], rows: int, at_once: int) -> list[Part]:
    """What `compute` makes of rows [0, rows), at most `at_once` of them a call, in order; where memory runs out, half
    as many from there on.

    Raises ResourceExhaustedError (OUT_OF_MEMORY) when one row does not fit.
    """
    parts: list[Part] = []
    first = 0
    while first < rows:
        part = slice(first, min(first + at_once, rows))
        try:
            parts.append(compute(part))
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            # Its traceback holds what was computed so far.
            failure = error.with_traceback(None)
        else:
            first = part.stop
            continue
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if part.stop - first == 1:
            raise ResourceExhaustedError(
                OUT_OF_MEMORY,
                "the device has no room for one image; use a smaller height and width, or a device with more memory",
            ) from failure
        at_once = -(-(part.stop - first) // 2)
    return parts
