"""Child processes: events, errors, and an end that frees them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from flawsmith.common.child import run_child
from flawsmith.common.errors import AbortedError, FlawsmithError, ResourceExhaustedError
from tests.unit.common.child_samples import SampleSpec

MODULE = "tests.unit.common.child_samples"


async def start(what: str, events: list[dict[str, Any]]) -> dict[str, Any]:
    async def note(event: dict[str, Any]) -> None:
        events.append(event)

    return await run_child(MODULE, SampleSpec(what=what), on_event=note)


async def test_events_and_the_result_arrive() -> None:
    events: list[dict[str, Any]] = []
    assert await start("work", events) == {"answer": 42}
    assert events == [
        {"event": "progress", "stage": "work", "step": 0, "total": 2, "loss": 1.5},
        {"event": "progress", "stage": "work", "step": 2, "total": 2, "loss": None},
    ]


@pytest.mark.parametrize(
    ("what", "cls", "reason"),
    [
        ("fail", AbortedError, "SAMPLE_FAILED"),
        ("crash", AbortedError, "CHILD_DIED"),
        ("exit", AbortedError, "CHILD_DIED"),
        ("full", ResourceExhaustedError, "DISK_FULL"),
        ("memory", ResourceExhaustedError, "OUT_OF_MEMORY"),
    ],
)
async def test_errors_arrive_as_ours(what: str, cls: type[FlawsmithError], reason: str) -> None:
    with pytest.raises(cls) as caught:
        await start(what, [])
    assert caught.value.reason == reason


async def test_cancelling_kills_the_child() -> None:
    events: list[dict[str, Any]] = []
    task = asyncio.create_task(start("sleep", events))
    while not events:
        await asyncio.sleep(0.05)
    children = _children()
    assert children
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not children & _children()


def _children() -> set[str]:
    return set(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split())
