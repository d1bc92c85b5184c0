"""What a look begins while earlier changes end; with real Tritons: tests/integration/test_triton_replicas.py."""

import asyncio
from typing import cast

from flawsmith.common.desired_models import DesiredModels
from flawsmith.common.reconciler import Reconciler
from flawsmith.common.triton import TritonClient


class Wanted:
    def __init__(self, *models: str) -> None:
        self.models = frozenset(models)

    def wanted(self) -> frozenset[str]:
        return self.models


class SlowServer:
    """Loads when it is told to, and answers what is loaded with what was, until the answer is let go."""

    def __init__(self) -> None:
        self.models: set[str] = set()
        self.calls: list[tuple[str, str]] = []
        self.may_change, self.may_answer = asyncio.Event(), asyncio.Event()
        self.may_answer.set()

    async def loaded_models(self) -> frozenset[str]:
        answer = frozenset(self.models)
        await self.may_answer.wait()
        return answer

    async def load(self, model: str) -> None:
        self.calls.append(("load", model))
        await self.may_change.wait()
        self.models.add(model)

    async def unload(self, model: str) -> None:
        self.calls.append(("unload", model))
        await self.may_change.wait()
        self.models.discard(model)


async def changed_during_a_look(server: SlowServer, reconciler: Reconciler) -> None:
    """Begin a change, and let it end between a look's question and the answer."""
    await reconciler.look()
    await asyncio.sleep(0)
    server.may_answer.clear()
    looking = asyncio.create_task(reconciler.look())
    await asyncio.sleep(0)
    server.may_change.set()
    for _ in range(5):
        await asyncio.sleep(0)
    server.may_answer.set()
    await looking
    await asyncio.sleep(0)


async def test_a_model_that_was_loaded_during_a_look_is_not_loaded_again() -> None:
    server = SlowServer()
    reconciler = Reconciler(cast(DesiredModels, Wanted("m")), cast(TritonClient, server), unload_after_s=0)
    await changed_during_a_look(server, reconciler)
    assert server.models == {"m"}
    assert server.calls == [("load", "m")]
    await reconciler.look()
    assert reconciler.ready
    assert server.calls == [("load", "m")]


async def test_a_model_that_was_unloaded_during_a_look_is_not_unloaded_again() -> None:
    server = SlowServer()
    server.models.add("m")
    reconciler = Reconciler(cast(DesiredModels, Wanted()), cast(TritonClient, server), unload_after_s=0)
    await changed_during_a_look(server, reconciler)
    assert server.models == set()
    assert server.calls == [("unload", "m")]


async def test_a_model_that_went_missing_after_it_was_loaded_is_loaded_again() -> None:
    server = SlowServer()
    reconciler = Reconciler(cast(DesiredModels, Wanted("m")), cast(TritonClient, server), unload_after_s=0)
    await changed_during_a_look(server, reconciler)
    server.models.clear()
    await reconciler.look()
    await asyncio.sleep(0)
    assert server.calls == [("load", "m"), ("load", "m")]
