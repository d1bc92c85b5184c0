"""The other side of `benchmarks.serving`: the least that a gRPC server of Python's can add to an inference.

`python -m benchmarks.serving_sides GRAPH`: a plain `grpc.aio` server with uvloop, no interceptors, no Triton, that
decodes and runs ONNX Runtime in a thread of its own process and answers Classify with a score; its port on the first
line of stdout. It ends with stdin.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import cv2
import grpc
import uvloop

from benchmarks.bare_inference import infer, open_session
from flawsmith.classification.v1 import classification_pb2, classification_pb2_grpc


class PlainServicer(classification_pb2_grpc.ClassificationServiceServicer):
    """Classify alone."""

    def __init__(self, graph: str) -> None:
        self._session = open_session(graph)

    async def Classify(
        self, request: classification_pb2.ClassifyRequest, context: Any
    ) -> classification_pb2.ClassifyResponse:
        """The score, and nothing else."""
        score = await asyncio.to_thread(infer, self._session, request.image.content)
        return classification_pb2.ClassifyResponse(score=score)


async def serve(graph: str) -> None:
    """Until stdin ends."""
    server = grpc.aio.server()
    classification_pb2_grpc.add_ClassificationServiceServicer_to_server(PlainServicer(graph), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)


if __name__ == "__main__":
    cv2.setNumThreads(1)
    uvloop.run(serve(sys.argv[1]))
