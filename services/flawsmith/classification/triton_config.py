"""A variant of a version as a Triton model: the files of its folder in the model repository."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from flawsmith.classification.graph import OUTPUTS
from flawsmith.classification.variants import Precision
from flawsmith.common.errors import NotFoundError

Backend = Literal["python", "onnxruntime"]
"""python: ONNX Runtime inside Triton's python backend, on the CPU, where the image has no onnxruntime backend (the
pytriton wheel, slim images). onnxruntime: on GPU images that have it, with TensorRT."""

MAX_BATCH_SIZE = 8

TENSORRT_BATCHES = (1, 4, MAX_BATCH_SIZE)
"""Images in the least, the usual and the largest batch that a TensorRT engine is built for."""

SERVING_THREADS = 2
"""Of one inference; more of them gain little at batch 1 and take cores from the neighbours."""

GPU_INSTANCES = 2
"""One copies its batch while the other computes."""


def triton_model_name(version: str, precision: Precision = "fp32") -> str:
    """Model name of `products/{p}/classifiers/{c}/versions/{v}`: `classifier__{p}__{c}__{v}`, then `__int8` if it is.

    Unambiguous, for ids hold lower-case letters, digits and hyphens only.
    """
    _, product, _, classifier, _, identifier = version.split("/")
    variant = "" if precision == "fp32" else f"__{precision}"
    return f"classifier__{product}__{classifier}__{identifier}{variant}"


def python_config(name: str, height: int, width: int, threads: int = SERVING_THREADS) -> str:
    """config.pbtxt for the python backend with ONNX Runtime.

    threads: of one inference; parameter `intra_op_threads`, read by deploy/triton/classifier/model.py.
    """
    return (
        _common(name, height, width)
        + f"""backend: "python"
instance_group [ {{ count: 1, kind: KIND_CPU }} ]
parameters {{ key: "intra_op_threads", value: {{ string_value: "{threads}" }} }}
"""
    )


def onnxruntime_config(name: str, height: int, width: int, precision: Precision = "fp32") -> str:
    """config.pbtxt for the onnxruntime backend with TensorRT, on GPU images.

    Not yet run: no server with that backend was at hand; the one that was parses it and asks for the backend. Written
    after Triton's documentation (onnxruntime_backend, execution accelerators). TensorRT takes int8 graphs by their
    quantise and dequantise nodes. One engine for all batch sizes is built, which the next start finds on disk; without
    the shapes it is built again whenever a larger batch comes. No `trt_cuda_graph_enable`: ONNX Runtime replays the one
    graph that it captured, of one batch size and one place in memory, and both vary here; answers would be those of
    an earlier image.
    """
    least, usual, most = (f"image:{images}x{height}x{width}x3" for images in TENSORRT_BATCHES)
    return (
        _common(name, height, width)
        + f"""backend: "onnxruntime"
default_model_filename: "model.onnx"
instance_group [ {{ count: {GPU_INSTANCES}, kind: KIND_GPU }} ]
optimization {{
  execution_accelerators {{
    gpu_execution_accelerator [ {{
      name: "tensorrt"
      parameters {{ key: "precision_mode" value: "{precision.upper()}" }}
      parameters {{ key: "trt_engine_cache_enable" value: "true" }}
      parameters {{ key: "trt_engine_cache_path" value: "/tmp/flawsmith-tensorrt" }}
      parameters {{ key: "trt_profile_min_shapes" value: "{least}" }}
      parameters {{ key: "trt_profile_opt_shapes" value: "{usual}" }}
      parameters {{ key: "trt_profile_max_shapes" value: "{most}" }}
    }} ]
  }}
}}
"""
    )


def tensorrt_config(name: str, height: int, width: int) -> str:
    """config.pbtxt for the tensorrt backend, beside the plan of an export; every batch size is one CUDA graph.

    Not yet run, as `onnxruntime_config`.
    """
    return (
        _common(name, height, width)
        + f"""backend: "tensorrt"
default_model_filename: "model.plan"
instance_group [ {{ count: {GPU_INSTANCES}, kind: KIND_GPU }} ]
optimization {{ cuda {{ graphs: true, output_copy_stream: true }} }}
"""
    )


def model_files(
    name: str, height: int, width: int, onnx: bytes, *, backend: Backend = "python", precision: Precision = "fp32"
) -> dict[str, bytes]:
    """Paths inside the model repository and their contents, config.pbtxt last: a folder without it is no model.

    Raises NotFoundError CHECKOUT_MISSING.
    """
    files = {f"{name}/1/model.onnx": onnx}
    if backend == "python":
        files[f"{name}/1/model.py"] = _model_code()
        config = python_config(name, height, width)
    else:
        config = onnxruntime_config(name, height, width, precision)
    return files | {f"{name}/config.pbtxt": config.encode()}


def _model_code() -> bytes:
    for folder in (Path.cwd(), *Path(__file__).parents):
        code = folder / "deploy/triton/classifier/model.py"
        if code.is_file():
            return code.read_bytes()
    raise NotFoundError(
        "CHECKOUT_MISSING", "the worker needs deploy/triton/classifier/model.py: start it in a checkout of flawsmith"
    )


def _common(name: str, height: int, width: int) -> str:
    # Batches are what came while the last one was computed: nobody waits for others to come.
    dims = dict(zip(OUTPUTS, ("1", "1", "-1, -1", "-1"), strict=True))
    outputs = ",\n".join(
        f'  {{ name: "{output}", data_type: TYPE_FP32, dims: [ {size} ] }}' for output, size in dims.items()
    )
    return f"""name: "{name}"
max_batch_size: {MAX_BATCH_SIZE}
input [ {{ name: "image", data_type: TYPE_UINT8, dims: [ {height}, {width}, 3 ] }} ]
output [
{outputs}
]
dynamic_batching {{ }}
version_policy: {{ specific {{ versions: [ 1 ] }} }}
"""
