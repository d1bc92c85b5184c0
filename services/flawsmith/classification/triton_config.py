"""A version's Triton model: the files of its folder in the model repository."""

from __future__ import annotations

from pathlib import Path

from flawsmith.common.errors import NotFoundError

MAX_BATCH_SIZE = 8
QUEUE_DELAY_US = 500
"""How long a request waits for others to share its batch: a tenth of one inference, so never the larger part."""

SERVING_THREADS = 2
"""Of one inference; more of them gain little at batch 1 and take cores from the neighbours."""


def triton_model_name(version: str) -> str:
    """Model name of `products/{p}/classifiers/{c}/versions/{v}`: `classifier__{p}__{c}__{v}`.

    Unambiguous, for ids hold lower-case letters, digits and hyphens only.
    """
    _, product, _, classifier, _, identifier = version.split("/")
    return f"classifier__{product}__{classifier}__{identifier}"


def python_config(name: str, height: int, width: int, threads: int = SERVING_THREADS) -> str:
    """config.pbtxt for the python backend with ONNX Runtime, where the onnxruntime backend is missing.

    threads: of one inference; parameter `intra_op_threads`, read by deploy/triton/classifier/model.py.
    """
    return (
        _common(name, height, width)
        + f"""backend: "python"
instance_group [ {{ count: 1, kind: KIND_CPU }} ]
parameters {{ key: "intra_op_threads", value: {{ string_value: "{threads}" }} }}
"""
    )


def onnxruntime_config(name: str, height: int, width: int, instances: int = 1) -> str:
    """config.pbtxt for the onnxruntime backend with TensorRT, on GPU images.

    Not yet run: no server with that backend was at hand. Written after Triton's documentation (onnxruntime_backend:
    execution accelerators).
    """
    return (
        _common(name, height, width)
        + f"""backend: "onnxruntime"
instance_group [ {{ count: {instances}, kind: KIND_GPU }} ]
optimization {{
  execution_accelerators {{
    gpu_execution_accelerator [ {{
      name: "tensorrt"
      parameters {{ key: "precision_mode" value: "FP32" }}
      parameters {{ key: "trt_engine_cache_enable" value: "true" }}
    }} ]
  }}
}}
"""
    )


def python_model_files(
    name: str, height: int, width: int, onnx: bytes, code: bytes, threads: int = SERVING_THREADS
) -> dict[str, bytes]:
    """Paths inside the model repository and their contents, config.pbtxt last: a folder without it is no model.

    code: deploy/triton/classifier/model.py.
    """
    return {
        f"{name}/1/model.onnx": onnx,
        f"{name}/1/model.py": code,
        f"{name}/config.pbtxt": python_config(name, height, width, threads).encode(),
    }


def model_code() -> bytes:
    """deploy/triton/classifier/model.py of this checkout. Raises NotFoundError CHECKOUT_MISSING."""
    for folder in (Path.cwd(), *Path(__file__).parents):
        code = folder / "deploy/triton/classifier/model.py"
        if code.is_file():
            return code.read_bytes()
    raise NotFoundError(
        "CHECKOUT_MISSING", "the worker needs deploy/triton/classifier/model.py: start it in a checkout of flawsmith"
    )


def _common(name: str, height: int, width: int) -> str:
    return f"""name: "{name}"
max_batch_size: {MAX_BATCH_SIZE}
input [ {{ name: "image", data_type: TYPE_UINT8, dims: [ {height}, {width}, 3 ] }} ]
output [
  {{ name: "probability", data_type: TYPE_FP32, dims: [ 1 ] }},
  {{ name: "logit", data_type: TYPE_FP32, dims: [ 1 ] }}
]
dynamic_batching {{ max_queue_delay_microseconds: {QUEUE_DELAY_US} }}
version_policy: {{ specific {{ versions: [ 1 ] }} }}
"""
