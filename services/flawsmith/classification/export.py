"""From a trained network to the ONNX graph that is served, gated by parity."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from flawsmith.classification.fitting import predict
from flawsmith.classification.graph import OPSET, OUTPUTS
from flawsmith.classification.inference import OnnxClassifier, require_parity
from flawsmith.classification.model import ResNetClassifier

GOLDEN_IMAGES = 8


@dataclass(frozen=True)
class Golden:
    """Images that travel with a version, and what eager PyTorch in fp32 says of them.

    images: uint8, N x H x W x 3. probability: float32, N.
    """

    images: np.ndarray
    probability: np.ndarray

    def save(self, path: Path) -> None:
        """As .npz with the arrays `images` and `probability`."""
        np.savez_compressed(path, images=self.images, probability=self.probability)

    @classmethod
    def load(cls, path: Path) -> Golden:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(images=arrays["images"], probability=arrays["probability"])


def choose_golden(labels: np.ndarray, count: int = GOLDEN_IMAGES) -> np.ndarray:
    """Indices of up to `count` images, both labels where there are both, spread evenly. labels: 0/1, N."""
    positives, negatives = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    from_positives = min(len(positives), max(count // 2, count - len(negatives)))
    from_negatives = min(len(negatives), count - from_positives)
    return np.concatenate([_spread(positives, from_positives), _spread(negatives, from_negatives)])


def export_onnx(model: ResNetClassifier, height: int, width: int, target: Path) -> None:
    """Write the graph: input `image` uint8 N x height x width x 3; outputs those of the network's `forward`.

    The network is moved to the CPU and set to evaluation. The TorchScript exporter is pinned: its graphs of
    ResNets are the ones that the parity gate has seen most of, and it needs no further package.
    """
    model.eval().to("cpu", memory_format=torch.contiguous_format)
    example = torch.zeros((2, height, width, 3), dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # TorchScript export is in maintenance
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # transformers checks channel counts
        torch.onnx.export(
            model,
            (example,),
            str(target),
            input_names=["image"],
            output_names=list(OUTPUTS),
            dynamic_axes={name: {0: "batch"} for name in ("image", *OUTPUTS)},
            opset_version=OPSET,
            dynamo=False,
        )


def make_golden(model: ResNetClassifier, images: np.ndarray) -> Golden:
    """What eager PyTorch in fp32 on the CPU says of images. images: uint8, N x H x W x 3."""
    model.to("cpu", memory_format=torch.contiguous_format)
    return Golden(images=np.ascontiguousarray(images), probability=predict(model, images, torch.device("cpu")))


def check_parity(onnx: Path, golden: Golden, threads: int = 2) -> float:
    """Largest difference in probability between eager PyTorch and ONNX Runtime on the golden images.

    One image at a time and all at once, so that a batch dimension that was frozen shows.
    Raises AbortedError PARITY_GATE_FAILED above 1e-4.
    """
    session = OnnxClassifier(onnx, threads)
    return max(
        require_parity("PyTorch and ONNX Runtime", session.probabilities(golden.images, size), golden.probability)
        for size in (1, len(golden.images))
    )


def _spread(indices: np.ndarray, count: int) -> np.ndarray:
    return indices[np.linspace(0, len(indices) - 1, count).round().astype(int)] if count else indices[:0]
