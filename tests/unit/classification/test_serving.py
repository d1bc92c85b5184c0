"""How much of what callers refer to is held at once, and what a frame's time is. Everything else of serving is tested
with a real Triton."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread

import pytest

from flawsmith.classification.registry import Registry
from flawsmith.classification.service import DEFINITION
from flawsmith.classification.serving import MAX_INLINE_BYTES, Classifiers
from flawsmith.classification.v1 import classification_pb2
from flawsmith.common.errors import DataLossError
from flawsmith.common.fair_threads import FairThreads
from flawsmith.common.jobs import JobClient
from flawsmith.common.manifests import ObjectRef
from flawsmith.common.object_store import ObjectStore
from flawsmith.common.operations import Operations
from flawsmith.common.process import Platform
from flawsmith.common.resources import Resources
from flawsmith.common.settings import ComputeSettings, ObjectStoreSettings, Settings, TritonSettings
from flawsmith.common.statuses import error_of
from flawsmith.common.triton import TritonClient
from flawsmith.common.v1 import common_pb2


class SlowStore(ThreadingHTTPServer):
    """Answers every read with one byte, after delay_s. most: reads that went on at the same time."""

    delay_s = 0.1

    def __init__(self) -> None:
        self.most, self.now, self.lock = 0, 0, Lock()
        super().__init__(("127.0.0.1", 0), _Read)


class _Read(BaseHTTPRequestHandler):
    server: SlowStore

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.now += 1
            self.server.most = max(self.server.most, self.server.now)
        time.sleep(self.server.delay_s)
        with self.server.lock:
            self.server.now -= 1
        self.send_response(200)
        self.send_header("Content-Length", "1")
        self.end_headers()
        self.wfile.write(b"x")

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[SlowStore]:
    with SlowStore() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize(("size", "at_once"), [(MAX_INLINE_BYTES + 1, [2]), (MAX_INLINE_BYTES, [3, 4, 5, 6])])
async def test_few_large_images_are_held_at_once(server: SlowStore, size: int, at_once: list[int]) -> None:
    settings = ObjectStoreSettings(endpoint=f"127.0.0.1:{server.server_port}", access_key="key", secret_key="secret")
    store, triton = ObjectStore(settings), TritonClient(TritonSettings())
    classifiers = Classifiers(store, Registry(Resources(store)), triton, FairThreads(2, 100), shadow_below=0)
    ref = ObjectRef(uri=store.uri("image.png"), sha256="0" * 64, size=size)
    calls = [classifiers.classify("me", "products/p/classifiers/c", ref) for _ in range(6)]
    try:
        answers = await asyncio.gather(*calls, return_exceptions=True)
    finally:
        await triton.close()
    assert [type(answer) for answer in answers] == [DataLossError] * 6  # it is not what the reference says
    assert server.most in at_once


async def test_a_frame_waits_for_its_turn_in_its_own_time(server: SlowStore) -> None:
    """Two frames whose images take half a second each, one at once: the second is there after a whole one."""
    server.delay_s = 0.5
    endpoint = f"127.0.0.1:{server.server_port}"
    settings = Settings(
        object_store=ObjectStoreSettings(endpoint=endpoint, access_key="key", secret_key="secret"),
        compute=ComputeSettings(stream_window=1),
    )
    platform = Platform("classification", settings)
    operations = Operations(
        JobClient("classification", settings), platform.resources, DEFINITION.responses, frozenset()
    )
    servicer = DEFINITION.servicer(platform, operations)
    ref = common_pb2.ObjectRef(uri=platform.store.uri("image.png"), sha256="0" * 64, size=1)

    async def frames() -> AsyncIterator[classification_pb2.ClassifyRequest]:
        for timeout_ms in (5000, 750, 5000):
            frame = classification_pb2.ClassifyRequest(
                classifier="products/p/classifiers/c", image=common_pb2.ImageSource(ref=ref)
            )
            frame.frame_timeout.FromMilliseconds(timeout_ms)
            yield frame

    try:
        answers = [answer async for answer in servicer.ClassifyStream(frames(), object())]
    finally:
        await platform.close()
    assert [error_of(answer.error).reason for answer in answers] == ["OBJECT_CHANGED", "FRAME_LATE", "OBJECT_CHANGED"]
