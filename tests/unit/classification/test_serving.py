"""How much of what callers refer to is held at once, what a frame's time is, what is kept of a deployment while aliases
move, and how long its drift is shown. Everything else of serving is tested with a real Triton."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread

import numpy as np
import pytest
from prometheus_client import REGISTRY

from flawsmith.classification import serving
from flawsmith.classification.drift import EmbeddingStatistics
from flawsmith.classification.manifests import ClassifierVersionManifest
from flawsmith.classification.registry import Aliases, Deployment, Registry
from flawsmith.classification.service import DEFINITION
from flawsmith.classification.serving import MAX_INLINE_BYTES, Classifiers
from flawsmith.classification.v1 import classification_pb2
from flawsmith.common.errors import DataLossError
from flawsmith.common.fair_threads import FairThreads
from flawsmith.common.images import encode_png
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


CLASSIFIER = "products/p/classifiers/c"
REF = ObjectRef(uri="s3://bucket/x", sha256="0" * 64, size=1)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
IMAGE = encode_png(np.zeros((32, 32, 3), np.uint8))


class Line:
    """Registry, object store and Triton of a classifier: what aliases say, how often versions and objects were read,
    and whether Triton's answers are held back."""

    def __init__(self) -> None:
        self.now = Aliases((), None)
        self.reads: Counter[str] = Counter()
        self.answering = asyncio.Event()
        self.answering.set()
        self.asked = asyncio.Event()

    def aliases(self, classifier: str) -> Aliases:
        return self.now

    def version(self, name: str) -> ClassifierVersionManifest:
        self.reads[name] += 1
        return ClassifierVersionManifest.model_validate(
            dict.fromkeys(("steps", "epochs", "batch_size", "processes", "final_loss", "seed"), 1)
            | dict.fromkeys(("dataset_manifest", "onnx", "weights", "golden"), REF)
            | {"name": name, "product": "p", "recipe": "diag", "backbone": "resnet18", "height": 32, "width": 32}
            | {"threshold": {"id": "0" * 12, "value": 0.5, "rule": "by hand"}, "onnx_max_abs_diff": 0.0}
            | {"parameters": {}, "versions": {}, "create_time": NOW}
        )

    def get(self, ref: ObjectRef) -> bytes:
        self.reads[ref.uri] += 1
        statistics = EmbeddingStatistics.of(np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32))
        assert statistics is not None
        return statistics.save()

    async def infer(
        self, model: str, inputs: dict[str, np.ndarray], wanted: list[str], *, timeout_s: float | None
    ) -> dict[str, np.ndarray]:
        self.asked.set()
        await self.answering.wait()
        one = np.full((1, 1), 0.5, np.float32)
        return {"probability": one, "logit": 0 * one, "embedding": np.ones((1, 4), np.float32)}

    def serve(self) -> Classifiers:
        return Classifiers(self, self, self, FairThreads(2, 100), shadow_below=0)  # type: ignore[arg-type]


def deployment(version: str, **changes: object) -> Deployment:
    return Deployment.model_validate(
        {
            "action": "deploy", "classifier": CLASSIFIER, "version": f"{CLASSIFIER}/versions/{version}",
            "triton_model": version, "max_abs_diff_vs_onnxruntime": 0.0, "deployed_by": "me", "deploy_time": NOW,
            "embeddings": REF,
        }
        | changes
    )  # fmt: skip


def drift_shown(version: str) -> float | None:
    labels = {"product": "p", "classifier": "c", "version": version, "precision": "fp32"}
    return REGISTRY.get_sample_value("flawsmith_classifier_embedding_drift", labels)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
def _quick_aliases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "ALIAS_SECONDS", 0.02)


async def test_deployments_of_one_model_in_turn_read_its_version_once() -> None:
    line = Line()
    classifiers = line.serve()
    first, strict = deployment("turn"), deployment("turn", size_policy="refuse")
    for champion in (first, strict) * 3:
        line.now = Aliases((champion,), None)
        classifiers.forget(CLASSIFIER)
        answer = await classifiers.classify("me", CLASSIFIER, IMAGE)
        assert answer.version == champion.version
    assert line.reads == {first.version: 1, REF.uri: 1}
    classifiers.forget(CLASSIFIER)


@pytest.mark.usefixtures("_quick_aliases")
async def test_drift_is_shown_of_the_champion_alone() -> None:
    line = Line()
    classifiers = line.serve()
    old, new = deployment("old"), deployment("new")
    line.now = Aliases((old,), None)
    await classifiers.classify("me", CLASSIFIER, IMAGE)
    assert drift_shown("old") is not None

    line.now = Aliases((old, new), None)  # promoted by another process
    await until(lambda: drift_shown("old") is None)
    await classifiers.classify("me", CLASSIFIER, IMAGE)
    assert drift_shown("new") is not None

    line.answering.clear()
    line.asked.clear()
    under_way = asyncio.create_task(classifiers.classify("me", CLASSIFIER, IMAGE))
    await line.asked.wait()
    line.now = Aliases((old,), None)  # rolled back by this process, while an image is at Triton
    classifiers.forget(CLASSIFIER)
    assert drift_shown("new") is None
    line.answering.set()
    assert (await under_way).version == new.version
    await classifiers.classify("me", CLASSIFIER, IMAGE)
    assert drift_shown("new") is None
    assert drift_shown("old") is not None
    classifiers.forget(CLASSIFIER)


@pytest.mark.usefixtures("_quick_aliases")
async def test_drift_of_a_classifier_that_nobody_asks_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """It might be champion no longer, and nobody looks."""
    monkeypatch.setattr(serving, "_FORGOTTEN_AFTER_S", 0.05)
    line = Line()
    classifiers = line.serve()
    line.now = Aliases((deployment("idle"),), None)
    await classifiers.classify("me", CLASSIFIER, IMAGE)
    first = drift_shown("idle")
    assert first is not None
    await until(lambda: drift_shown("idle") is None)
    await classifiers.classify("me", CLASSIFIER, IMAGE)
    second = drift_shown("idle")
    assert second is not None
    assert second > first  # the chart goes on where it was
    classifiers.forget(CLASSIFIER)
