"""The export process: `python -m flawsmith.classification.exporting`, an `ExportSpec` on stdin, events on stdout.

Whatever is made starts from the graph that is served. fp32 formats must agree with eager PyTorch on the golden images
(1e-4 in probability); others pass `variants.pass_gate` on the real test images.
"""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from flawsmith.classification.exports import ExportFormat
from flawsmith.classification.inference import OnnxClassifier, require_parity
from flawsmith.classification.preprocess import preprocess
from flawsmith.classification.quantising import quantise
from flawsmith.classification.thresholds import Threshold
from flawsmith.classification.triton_config import MAX_BATCH_SIZE, TENSORRT_BATCHES, tensorrt_config
from flawsmith.classification.variants import check_gate_possible, pass_gate
from flawsmith.common.child import child_main
from flawsmith.common.errors import FailedPreconditionError
from flawsmith.common.images import decode_image
from flawsmith.common.manifests import Label

CALIBRATION_IMAGES = 128
_TENSORRT_WORKSPACE = 2 * 2**30

Score = Callable[[np.ndarray], np.ndarray]
"""uint8, N x H x W x 3 -> float32, N: probabilities."""


class LabelledImage(BaseModel):
    """A downloaded image."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path
    label: Label


class ExportSpec(BaseModel):
    """Input of the export process.

    onnx, golden, threshold: of the version. calibration: real training images. test: real test images; both
    are needed by the formats that compute in other arithmetic only. threads: of ONNX Runtime.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: ExportFormat
    onnx: Path
    golden: Path
    threshold: Threshold
    calibration: tuple[LabelledImage, ...] = ()
    test: tuple[LabelledImage, ...] = ()
    work_folder: Path
    threads: int = Field(default=2, ge=1, le=256)


class Progress(Protocol):
    """What `flawsmith.common.child.Reporter` offers."""

    def progress(self, stage: str, step: int, total: int, loss: float | None = None) -> None: ...


def run(spec: ExportSpec, reporter: Progress) -> dict[str, Any]:
    """Make the files of a format, and gate them.

    Result: `files` (name -> path), `max_abs_diff_vs_pytorch`, `gate` (`VariantGate` or None), `versions`.
    Raises AbortedError PARITY_GATE_FAILED or VARIANT_GATE_FAILED, FailedPreconditionError TOO_FEW_POSITIVES,
    OPENVINO_MISSING, TENSORRT_MISSING.
    """
    cv2.setNumThreads(1)
    spec.work_folder.mkdir(parents=True, exist_ok=True)
    with np.load(spec.golden, allow_pickle=False) as golden:
        images, expected = golden["images"], golden["probability"]
    if spec.format in ("onnx_int8", "tensorrt"):
        check_gate_possible(_labels(spec.test))
    reporter.progress("export", 0, 1)
    match spec.format:
        case "onnx":
            files = [Path(shutil.copy(spec.onnx, spec.work_folder / "model.onnx"))]
            score: Score = OnnxClassifier(files[0], spec.threads).probabilities
            libraries = ["onnxruntime"]
        case "onnx_int8":
            files = [quantise(spec.onnx, spec.work_folder / "model.onnx", _pixels(spec, _balanced(spec.calibration)))]
            score, libraries = OnnxClassifier(files[0], spec.threads).probabilities, ["onnx", "onnxruntime"]
        case "openvino":
            files = convert_to_openvino(spec.onnx, spec.work_folder)
            score, libraries = openvino_score(files[0]), ["openvino"]
        case "tensorrt":
            files = build_tensorrt_plan(spec.onnx, spec.work_folder)
            score, libraries = tensorrt_score(files[0]), ["tensorrt", "torch"]
    reporter.progress("export", 1, 1)
    gate = None
    if spec.format in ("onnx", "openvino"):
        difference = require_parity(f"{spec.format} and PyTorch", score(images), expected)
    else:
        difference = float(np.abs(score(images) - expected).max())
        reference, found = [], []
        reference_score = OnnxClassifier(spec.onnx, spec.threads).probabilities
        for done, pixels in enumerate(_batches(_pixels(spec, spec.test)), start=1):
            reference.append(reference_score(pixels))
            found.append(score(pixels))
            reporter.progress("gate", min(done * MAX_BATCH_SIZE, len(spec.test)), len(spec.test))
        gate = pass_gate(_labels(spec.test), np.concatenate(reference), np.concatenate(found), spec.threshold)
    return {
        "files": {path.name: str(path) for path in files},
        "max_abs_diff_vs_pytorch": difference,
        "gate": gate.model_dump(mode="json") if gate else None,
        "versions": {name: importlib.metadata.version(name) for name in libraries},
    }


def convert_to_openvino(onnx: Path, folder: Path) -> list[Path]:
    """model.xml and model.bin, fp32. Raises FailedPreconditionError OPENVINO_MISSING."""
    openvino = _openvino()
    target = folder / "model.xml"
    openvino.save_model(openvino.Core().read_model(onnx), target, compress_to_fp16=False)
    return [target, target.with_suffix(".bin")]


def openvino_score(model: Path) -> Score:
    """OpenVINO on the CPU in fp32 (it would choose bf16 where the CPU has it)."""
    openvino = _openvino()
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return _one_by_one(lambda image: np.asarray(compiled({"image": image})["probability"]))


def build_tensorrt_plan(onnx: Path, folder: Path) -> list[Path]:
    """model.plan for this machine's GPU, in fp16 where that is quicker, and a config.pbtxt for Triton beside it.

    Not yet run: no machine with TensorRT was at hand. Written after TensorRT 10's Python API.
    Raises FailedPreconditionError TENSORRT_MISSING.
    """
    tensorrt = _tensorrt()
    logger = tensorrt.Logger(tensorrt.Logger.WARNING)
    builder = tensorrt.Builder(logger)
    network = builder.create_network()
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx)):
        raise FailedPreconditionError("TENSORRT_REFUSED", f"TensorRT cannot read the graph: {parser.get_error(0)}")
    _, height, width, channels = network.get_input(0).shape
    config = builder.create_builder_config()
    config.set_flag(tensorrt.BuilderFlag.FP16)
    config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, _TENSORRT_WORKSPACE)
    profile = builder.create_optimization_profile()
    profile.set_shape("image", *((count, height, width, channels) for count in TENSORRT_BATCHES))
    config.add_optimization_profile(profile)
    plan, triton = folder / "model.plan", folder / "config.pbtxt"
    plan.write_bytes(bytes(builder.build_serialized_network(network, config)))
    triton.write_text(tensorrt_config("classifier", height, width))
    return [plan, triton]


def tensorrt_score(plan: Path) -> Score:
    """The plan on this machine's GPU. Not yet run, as `build_tensorrt_plan`."""
    import torch

    tensorrt = _tensorrt()
    engine = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.WARNING)).deserialize_cuda_engine(plan.read_bytes())
    context = engine.create_execution_context()

    def score(image: np.ndarray) -> np.ndarray:
        buffers = {"image": torch.from_numpy(image).cuda()}
        context.set_input_shape("image", image.shape)
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            if name not in buffers:
                shape = tuple(context.get_tensor_shape(name))
                buffers[name] = torch.empty(shape, dtype=torch.float32, device="cuda")
            context.set_tensor_address(name, buffers[name].data_ptr())
        stream = torch.cuda.current_stream()
        context.execute_async_v3(stream.cuda_stream)
        stream.synchronize()
        return buffers["probability"].cpu().numpy()

    return _one_by_one(score)


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise FailedPreconditionError(
            "OPENVINO_MISSING", "the worker has no OpenVINO; install flawsmith[classification-training]"
        ) from error
    return openvino


def _tensorrt() -> Any:
    try:
        import tensorrt
        import torch
    except ImportError as error:
        raise FailedPreconditionError(
            "TENSORRT_MISSING", "the worker has no TensorRT; install `tensorrt` for its CUDA version"
        ) from error
    if not torch.cuda.is_available():
        raise FailedPreconditionError("TENSORRT_MISSING", "a TensorRT plan is made on the GPU that runs it; none here")
    return tensorrt


def _one_by_one(score: Callable[[np.ndarray], np.ndarray]) -> Score:
    """score: uint8, 1 x H x W x 3 -> float32, 1 x 1."""

    def all_of(images: np.ndarray) -> np.ndarray:
        return np.concatenate([score(np.ascontiguousarray(image[None])).ravel() for image in images])

    return all_of


def _pixels(spec: ExportSpec, images: Sequence[LabelledImage]) -> Iterator[np.ndarray]:
    size = OnnxClassifier(spec.onnx, 1).size
    return (preprocess(decode_image(image.path.read_bytes()), *size) for image in images)


def _batches(pixels: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    batch: list[np.ndarray] = []
    for image in pixels:
        batch.append(image)
        if len(batch) == MAX_BATCH_SIZE:
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)


def _balanced(images: Sequence[LabelledImage]) -> list[LabelledImage]:
    """Up to `CALIBRATION_IMAGES`, as many defects as normals where there are enough, evenly spread."""
    defects = [image for image in images if image.label is Label.DEFECT]
    normals = [image for image in images if image.label is not Label.DEFECT]
    of_defects = min(len(defects), max(CALIBRATION_IMAGES // 2, CALIBRATION_IMAGES - len(normals)))
    chosen = [*_spread(defects, of_defects), *_spread(normals, min(len(normals), CALIBRATION_IMAGES - of_defects))]
    if not chosen:
        raise FailedPreconditionError("NO_REAL_IMAGES", "the data set has no real training images to calibrate on")
    return chosen


def _spread(images: list[LabelledImage], count: int) -> list[LabelledImage]:
    return [images[index] for index in np.linspace(0, len(images) - 1, count).round().astype(int)] if count else []


def _labels(images: Sequence[LabelledImage]) -> np.ndarray:
    return np.array([image.label is Label.DEFECT for image in images], dtype=np.int64)


if __name__ == "__main__":
    child_main(ExportSpec, run)
