import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from flawsmith.classification import triton_config

NAME = "classifier__p__main__v1"


def parse(text: str) -> model_config_pb2.ModelConfig:
    return text_format.Parse(text, model_config_pb2.ModelConfig())


@pytest.mark.parametrize("make", [triton_config.python_config, triton_config.onnxruntime_config])
def test_every_config_is_what_the_graph_takes_and_gives(make) -> None:
    config = parse(make(NAME, 600, 200))
    assert (config.name, config.max_batch_size) == (NAME, 8)
    (image,) = config.input
    assert (image.name, image.data_type, list(image.dims)) == ("image", model_config_pb2.TYPE_UINT8, [600, 200, 3])
    assert {output.name: (output.data_type, list(output.dims)) for output in config.output} == {
        "probability": (model_config_pb2.TYPE_FP32, [1]),
        "logit": (model_config_pb2.TYPE_FP32, [1]),
        "heat_map": (model_config_pb2.TYPE_FP32, [-1, -1]),
        "embedding": (model_config_pb2.TYPE_FP32, [-1]),
    }
    assert config.HasField("dynamic_batching")


def test_python_config_names_the_threads_that_the_model_code_reads() -> None:
    config = parse(triton_config.python_config(NAME, 600, 200, threads=3))
    assert config.backend == "python"
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_CPU
    assert config.parameters["intra_op_threads"].string_value == "3"


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_onnxruntime_config_asks_for_tensorrt_on_the_gpu(precision) -> None:
    config = parse(triton_config.onnxruntime_config(NAME, 600, 200, precision))
    assert config.backend == "onnxruntime"
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert (accelerator.name, accelerator.parameters["precision_mode"]) == ("tensorrt", precision.upper())
    shapes = [accelerator.parameters[f"trt_profile_{which}_shapes"] for which in ("min", "opt", "max")]
    assert shapes == ["image:1x600x200x3", "image:4x600x200x3", f"image:{config.max_batch_size}x600x200x3"]
    # Its one captured graph would be replayed for batches of other sizes, and from other places in memory.
    assert "trt_cuda_graph_enable" not in accelerator.parameters


def test_tensorrt_config_records_cuda_graphs() -> None:
    config = parse(triton_config.tensorrt_config(NAME, 600, 200))
    assert (config.backend, config.default_model_filename) == ("tensorrt", "model.plan")
    assert config.optimization.cuda.graphs


def test_model_folder_is_whole_before_its_config_makes_it_a_model() -> None:
    files = triton_config.model_files("m", 8, 8, b"graph")
    assert list(files) == ["m/1/model.onnx", "m/1/model.py", "m/config.pbtxt"]
    assert files["m/1/model.onnx"] == b"graph"
    assert b"class TritonPythonModel" in files["m/1/model.py"]
    native = triton_config.model_files("m", 8, 8, b"graph", backend="onnxruntime")
    assert list(native) == ["m/1/model.onnx", "m/config.pbtxt"]


@pytest.mark.parametrize(
    ("version", "name"),
    [
        ("products/a/classifiers/b/versions/c", "classifier__a__b__c"),
        ("products/a-b/classifiers/c/versions/d", "classifier__a-b__c__d"),
        ("products/a/classifiers/b-c/versions/d", "classifier__a__b-c__d"),
    ],
)
def test_model_names_are_unambiguous(version: str, name: str) -> None:
    assert triton_config.triton_model_name(version) == name
    assert triton_config.triton_model_name(version, "int8") == f"{name}__int8"
