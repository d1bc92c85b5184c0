"""Calls of other services: what is away is waited for, and not for ever."""

from __future__ import annotations

import time

import pytest

from flawsmith.assembly.peers import Peers
from flawsmith.common.errors import UnavailableError
from flawsmith.common.process import Platform
from flawsmith.common.settings import PeerSettings, Settings
from flawsmith.generation.v1 import generation_pb2
from flawsmith.local.processes import free_port


@pytest.fixture
async def peers():
    """Nobody listens at the other end."""
    nobody = f"127.0.0.1:{free_port()}"
    platform = Platform("assembly", Settings(peers=PeerSettings(generation=nobody, augmentation=nobody)))
    yield Peers(platform, "tester", patience_s=0.3)
    await platform.close()


async def test_a_service_that_does_not_answer_is_named(peers: Peers) -> None:
    with pytest.raises(UnavailableError) as caught:
        await peers.call("generation", "GetPrompt", generation_pb2.GetPromptRequest(name="products/p/prompts/q"))
    assert caught.value.reason == "SERVICE_UNREACHABLE"
    assert "generation" in caught.value.message


async def test_an_outage_is_waited_out_but_not_for_ever(peers: Peers) -> None:
    looks = 0

    async def recovering() -> str | None:
        nonlocal looks
        looks += 1
        if looks in (2, 3, 5, 6):
            raise UnavailableError("SERVICE_UNREACHABLE", "away")
        return "here" if looks == 8 else None

    # Two outages of two looks each: patience counts from the begin of each.
    assert await peers.poll(recovering, every_s=0.12) == "here"

    async def away() -> str | None:
        raise UnavailableError("SERVICE_UNREACHABLE", "away")

    started = time.monotonic()
    with pytest.raises(UnavailableError):
        await peers.poll(away, every_s=0.05)
    assert 0.25 < time.monotonic() - started < 5
