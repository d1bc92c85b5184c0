"""The exported graph in this process: evaluation, the parity gates, and what Triton's answers are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from flawsmith.classification.graph import OUTPUTS
from flawsmith.common.errors import AbortedError

MAX_ABS_DIFFERENCE = 1e-4
"""Between any two runtimes' probabilities for the same image in fp32; above it they do not compute the same."""


class OnnxClassifier:
    """ONNX Runtime on the CPU. model: path of an exported classifier, or its bytes. threads: of one inference."""

    def __init__(self, model: Path | bytes, threads: int = 2) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Idle threads must not spin: the cores are shared with other processes.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"]
        )

    def run(self, images: np.ndarray, outputs: Sequence[str] = OUTPUTS) -> dict[str, np.ndarray]:
        """images: uint8, N x H x W x 3. Returns the named outputs."""
        return dict(zip(outputs, self._session.run(list(outputs), {"image": images}), strict=True))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what it gives; `OUTPUTS` unless another release exported it."""
        return tuple(output.name for output in self._session.get_outputs())

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) that it takes, pixels."""
        _, height, width, _ = self._session.get_inputs()[0].shape
        return int(height), int(width)

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """images: uint8, N x H x W x 3. Returns (probability, logit), float32, N x 1."""
        probability, logit = self._session.run(["probability", "logit"], {"image": images})
        return probability, logit

    def probabilities(self, images: np.ndarray, batch_size: int = 8) -> np.ndarray:
        """images: uint8, N x H x W x 3, may be memory-mapped. Returns float32, N."""
        batches = [
            self(np.ascontiguousarray(images[start : start + batch_size]))[0].ravel()
            for start in range(0, len(images), batch_size)
        ]
        return np.concatenate(batches) if batches else np.empty(0, dtype=np.float32)


def require_parity(what: str, ours: np.ndarray, reference: np.ndarray) -> float:
    """The largest absolute difference of two runs' probabilities for the golden images.

    ours, reference: float, same shape, 0-1. Raises AbortedError PARITY_GATE_FAILED above 1e-4, or where either
    holds a NaN or nothing at all (NumPy 2 makes Triton's python backend answer with empty arrays, silently).
    """
    fits = ours.shape == reference.shape and ours.size > 0
    difference = float(np.max(np.abs(ours.astype(np.float64) - reference))) if fits else float("nan")
    if not difference <= MAX_ABS_DIFFERENCE:
        raise AbortedError(
            "PARITY_GATE_FAILED",
            f"{what} differ by {difference:.3g} in probability on the golden images "
            f"(shapes {ours.shape} and {reference.shape}; at most {MAX_ABS_DIFFERENCE:g} is allowed); nothing was "
            "published or moved: the export or the runtime is at fault, not the data",
        )
    return difference
