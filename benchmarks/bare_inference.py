"""What cannot be left out of an answer: decoding the file, and ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import onnxruntime

from flawsmith.classification.preprocess import preprocess
from flawsmith.classification.triton_config import SERVING_THREADS
from flawsmith.common.images import decode_image

SIZE = (600, 200)


def open_session(graph: Path | str) -> onnxruntime.InferenceSession:
    """ONNX Runtime's own defaults, but for the threads: while it waits it spins, for nobody else is there."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = SERVING_THREADS, 1
    return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


def infer(session: onnxruntime.InferenceSession, data: bytes) -> float:
    """The probability of a defect in an image's file."""
    (probability,) = session.run(["probability"], {"image": preprocess(decode_image(data), *SIZE)[None]})
    return float(probability[0, 0])
