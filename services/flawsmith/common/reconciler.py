"""Beside each Triton: loads the models that the registry wants, unloads the others.

    python -m flawsmith.common.reconciler

Explicit model control reaches one server only, and a server that starts anew has loaded nothing; so each one has a
reconciler of its own, which compares `DesiredModels` with the server's loaded models again and again.
"""

from __future__ import annotations

import asyncio
import os
import time

from flawsmith.common import telemetry
from flawsmith.common.desired_models import DesiredModels
from flawsmith.common.errors import FlawsmithError
from flawsmith.common.health import HealthServer
from flawsmith.common.object_store import ObjectStore
from flawsmith.common.settings import Settings, load_settings
from flawsmith.common.signals import stop_event
from flawsmith.common.triton import TritonClient

_FIRST_PAUSE_S = 2.0
_LONGEST_PAUSE_S = 60.0
_LOG = telemetry.log(__name__)


class Reconciler:
    """Brings one Triton to what is wanted, a look at a time. Belongs to one event loop.

    ready: whether inferences may come. True once everything that is wanted is loaded; then a new wish does not take it
    back (every Triton would be unready at once), but a Triton that is gone or has lost a model does.
    """

    def __init__(self, desired: DesiredModels, triton: TritonClient, *, unload_after_s: float) -> None:
        self.ready = False
        self._desired = desired
        self._triton = triton
        self._unload_after_s = unload_after_s
        self._changing: dict[str, asyncio.Task[None]] = {}
        self._failures: dict[str, tuple[int, float]] = {}
        self._unwanted_since: dict[str, float] = {}
        self._seen: frozenset[str] = frozenset()
        for action in ("load", "unload"):
            for outcome in ("done", "failed"):
                telemetry.TRITON_CHANGES.labels(action, outcome)  # 0 until it happens, instead of no series

    async def look(self) -> None:
        """Compare once, and begin what is to be done; loading one model does not wait for another.

        Raises UnavailableError when Triton or the object store does not answer.
        """
        # What ends from here on may or may not be in Triton's answer: it is left to the next look, or a model that has
        # just been loaded would be loaded once more.
        changing = frozenset(self._changing)
        try:
            loaded = await self._triton.loaded_models()
        except FlawsmithError:
            self.ready, self._seen = False, frozenset()
            raise
        wanted = await asyncio.to_thread(self._desired.wanted)
        missing = wanted - loaded
        if not missing:
            self.ready = True
        elif missing & self._seen:
            self.ready = False
        self._seen = loaded
        for state, models in (("wanted", wanted), ("loaded", loaded), ("missing", missing)):
            telemetry.TRITON_MODELS.labels(state).set(len(models))

        now = time.monotonic()
        self._failures = {model: failed for model, failed in self._failures.items() if model in missing}
        self._unwanted_since = {model: self._unwanted_since.get(model, now) for model in loaded - wanted}
        for model in sorted(missing - changing):
            if now >= self._failures.get(model, (0, 0.0))[1]:
                self._begin("load", model)
        for model, since in self._unwanted_since.items():
            if now - since >= self._unload_after_s and model not in changing:
                self._begin("unload", model)

    async def stop(self) -> None:
        """Begin nothing more; what Triton was told, it ends by itself."""
        for task in self._changing.values():
            task.cancel()
        await asyncio.gather(*self._changing.values(), return_exceptions=True)

    def _begin(self, action: str, model: str) -> None:
        task = asyncio.create_task(self._change(action, model))
        self._changing[model] = task
        task.add_done_callback(lambda _: self._changing.pop(model, None))

    async def _change(self, action: str, model: str) -> None:
        started = time.monotonic()
        try:
            await (self._triton.load(model) if action == "load" else self._triton.unload(model))
        except FlawsmithError as error:
            count = self._failures.get(model, (0, 0.0))[0] + 1
            pause = min(_FIRST_PAUSE_S * 2 ** (count - 1), _LONGEST_PAUSE_S)
            self._failures[model] = (count, time.monotonic() + pause)
            telemetry.TRITON_CHANGES.labels(action, "failed").inc()
            _LOG.warning(f"{action} failed", model=model, reason=error.reason, problem=error.message, pause_s=pause)
        else:
            telemetry.TRITON_CHANGES.labels(action, "done").inc()
            _LOG.info(f"{action} done", model=model, seconds=round(time.monotonic() - started, 2))


async def run(settings: Settings) -> None:
    """Reconcile until SIGTERM."""
    stopped = stop_event()
    health = HealthServer(settings.rpc.health_listen)
    health.start()
    triton = TritonClient(settings.triton)
    desired = DesiredModels(ObjectStore(settings.object_store), settings.triton.repository)
    reconciler = Reconciler(desired, triton, unload_after_s=settings.triton.unload_after_s)
    _LOG.info("reconciling", triton=settings.triton.url, health_port=health.port)
    while not stopped.is_set():
        try:
            await reconciler.look()
        except FlawsmithError as error:
            _LOG.warning("waiting for a dependency", reason=error.reason, problem=error.message)
        health.set_ready(reconciler.ready)
        try:
            async with asyncio.timeout(settings.triton.reconcile_s):
                await stopped.wait()
        except TimeoutError:
            continue
    _LOG.info("draining")
    health.set_ready(False)
    await reconciler.stop()
    await triton.close()
    health.stop()


if __name__ == "__main__":
    # As in common.process: children are executed, not forked.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    settings = load_settings()
    telemetry.start(settings.telemetry, "triton-reconciler")
    asyncio.run(run(settings))
