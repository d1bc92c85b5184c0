"""What the client does with many images: calls that hold some of them, answers in the images' order."""

from __future__ import annotations

import asyncio
from typing import Any

from flawsmith.classification.v1 import classification_pb2, classification_pb2_grpc
from flawsmith.client import Client
from flawsmith.common import rpc
from flawsmith.common.settings import AuthSettings, PeerSettings, RpcSettings
from flawsmith.common.statuses import error_of

CLASSIFICATION = "flawsmith.classification.v1.ClassificationService"
MOST = 4 * 2**20


class Servicer(classification_pb2_grpc.ClassificationServiceServicer):
    """Answers with what it was sent. calls: images in each."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    async def BatchClassify(self, request: Any, context: Any) -> classification_pb2.BatchClassifyResponse:
        self.calls.append(len(request.images))
        return classification_pb2.BatchClassifyResponse(
            responses=[
                classification_pb2.ClassifyResponse(version=image.content[:8].decode()) for image in request.images
            ]
        )


async def test_an_image_too_large_for_a_call_is_an_answer_in_its_place() -> None:
    server, servicer = rpc.Server("classification", RpcSettings(drain_s=0), AuthSettings()), Servicer()
    server.add(CLASSIFICATION, classification_pb2_grpc.add_ClassificationServiceServicer_to_server, servicer)
    port = await server.start()
    large = bytes(MOST + 1)
    images = [large, b"first", b"second", large, large, b"third", b"full".ljust(MOST, b"\0"), b"last"]

    def classify() -> list[classification_pb2.ClassifyResponse]:
        with Client(PeerSettings(classification=f"127.0.0.1:{port}")) as client:
            return list(client.classify("products/p/classifiers/c", iter(images)))

    try:
        answers = await asyncio.to_thread(classify)
    finally:
        await server.stop()
    assert [answer.version.rstrip("\0") for answer in answers] == [
        "", "first", "second", "", "", "third", "full", "last",
    ]  # fmt: skip
    assert servicer.calls == [2, 1, 1, 1]
    for answer, image in zip(answers, images, strict=True):
        assert answer.HasField("error") == (image is large)
        if image is large:
            error = error_of(answer.error)
            assert (error.code, error.reason) == ("INVALID_ARGUMENT", "INLINE_IMAGE_TOO_LARGE")
            assert "upload it" in error.message
