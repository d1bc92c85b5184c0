"""The first convolution on bytes, against the same graph with its normalisation; the gate: test_exporting.py."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from flawsmith.classification.backbones import Backbone
from flawsmith.classification.export import export_onnx
from flawsmith.classification.model import ResNetClassifier
from flawsmith.classification.quantising import quantise

SIZE = 64


def after_the_stem(path: Path, image: np.ndarray) -> np.ndarray:
    """What the first convolution and its activation make of an image, in floating point."""
    model = onnx.load(path)
    (stem,) = next(node for node in model.graph.node if node.op_type == "Conv").output
    model.graph.output.append(onnx.helper.make_tensor_value_info(stem, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (found,) = session.run([stem], {"image": image[None]})
    return np.maximum(found[0], 0)


@pytest.mark.parametrize(("size", "kernel"), [((64, 64), [4, 4]), ((50, 76), [4, 4]), ((65, 64), [7, 7])])
def test_weights_that_read_bytes_normalise_them(size: tuple[int, int], kernel: list[int], tmp_path: Path) -> None:
    torch.manual_seed(0)
    export_onnx(ResNetClassifier(Backbone.RESNET18), *size, tmp_path / "model.onnx")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (9, *size, 3), dtype=np.uint8)
    quantised = quantise(tmp_path / "model.onnx", tmp_path / "int8.onnx", iter(images[:8]))
    expected, found = (after_the_stem(tmp_path / name, images[8]) for name in ("model.onnx", "int8.onnx"))
    assert expected.shape == found.shape == (64, (size[0] + 1) // 2, size[1] // 2)
    # Weights of 8 bits; and at the border, which two outputs see, another grey than each colour's mean.
    inside = np.s_[:, 2:-2, 2:-2]
    assert np.abs(found[inside] - expected[inside]).max() < 0.02 * expected.max()
    assert np.abs(found - expected).max() < 0.1 * expected.max()
    stem = next(node for node in onnx.load(quantised).graph.node if node.op_type == "Conv")
    assert [list(entry.ints) for entry in stem.attribute if entry.name == "kernel_shape"] == [kernel]
    # Batches of any size, as Triton makes them.
    session = onnxruntime.InferenceSession(quantised, providers=["CPUExecutionProvider"])
    (together,) = session.run(["probability"], {"image": images[:3]})
    alone = [session.run(["probability"], {"image": image[None]})[0] for image in images[:3]]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-6)


def test_a_graph_that_does_not_normalise_as_ours_is_refused(tmp_path: Path) -> None:
    image = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["batch", SIZE, SIZE, 3])
    nodes = [
        onnx.helper.make_node("Cast", ["image"], ["a"], to=onnx.TensorProto.FLOAT),
        *(onnx.helper.make_node("Relu", [name], [after]) for name, after in ("ab", "bc", "cd", "de")),
    ]
    output = onnx.helper.make_tensor_value_info("e", onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph(nodes, "other", [image], [output])
    path = tmp_path / "other.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    with pytest.raises(ValueError, match="begins with Cast, Relu"):
        quantise(path, tmp_path / "int8.onnx", iter([]))
    assert not (tmp_path / "int8.onnx").exists()
