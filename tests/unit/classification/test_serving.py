"""How much of what callers refer to is held at once. Everything else of serving is tested with a real Triton."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread

import pytest

from flawsmith.classification.registry import Registry
from flawsmith.classification.serving import MAX_INLINE_BYTES, Classifiers
from flawsmith.common.errors import DataLossError
from flawsmith.common.fair_threads import FairThreads
from flawsmith.common.manifests import ObjectRef
from flawsmith.common.object_store import ObjectStore
from flawsmith.common.resources import Resources
from flawsmith.common.settings import ObjectStoreSettings, TritonSettings
from flawsmith.common.triton import TritonClient


class SlowStore(ThreadingHTTPServer):
    """Answers every read with one byte, slowly. most: reads that went on at the same time."""

    def __init__(self) -> None:
        self.most, self.now, self.lock = 0, 0, Lock()
        super().__init__(("127.0.0.1", 0), _Read)


class _Read(BaseHTTPRequestHandler):
    server: SlowStore

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.now += 1
            self.server.most = max(self.server.most, self.server.now)
        time.sleep(0.1)
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
