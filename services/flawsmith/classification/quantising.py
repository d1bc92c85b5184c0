"""From the graph that is served to one that computes in int8."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

_PADDED = 116
"""What the first convolution finds beyond the image's border, of 255: ImageNet's mean over the colours, rounded. It is
the pixels' zero point, of which a convolution has only one."""


def quantise(onnx: Path, target: Path, calibration: Iterator[np.ndarray]) -> Path:
    """Static quantisation to int8 (QDQ): unsigned activations, signed weights one scale a channel, which AVX-512 VNNI
    multiplies without overflow; ranges are the smallest and largest values on the calibration images.

    Pixels go into the first convolution as they are, bytes, and its weights hold their normalisation; only beyond the
    border it then finds grey instead of each colour's mean. What comes after the pooled features (head, heat map)
    stays fp32: it costs nothing, and the answer is read from it. calibration: uint8, H x W x 3 each.
    """
    import onnx as onnx_library
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(calibration, None)
            return None if image is None else {"image": image[None]}

    prepared = target.with_suffix(".prepared.onnx")
    quant_pre_process(str(onnx), str(prepared), skip_symbolic_shape=True)
    model = onnx_library.load(str(prepared))
    pixels = _normalise_by_weights(model.graph)
    onnx_library.save(model, str(prepared))
    as_bytes = {"scale": np.array(1, np.float32), "zero_point": np.array(_PADDED, np.uint8)}
    quantize_static(
        str(prepared),
        str(target),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv", "Relu", "Add", "MaxPool"],
        nodes_to_exclude=_answering_nodes(model.graph),
        extra_options={"TensorQuantOverrides": {pixels: [as_bytes]}},
    )
    prepared.unlink()
    model = onnx_library.load(str(target))
    _take_bytes(model.graph, pixels)
    onnx_library.checker.check_model(model)
    onnx_library.save(model, str(target))
    return target


def _normalise_by_weights(graph: Any) -> str:
    """Rewrite Transpose, Cast, Sub, Div, Conv on the image (`ResNetClassifier.forward`) to Transpose, Cast, Sub, Conv,
    where Sub takes away _PADDED. Returns the name of what the convolution reads then.

    W * (x - mean) / std is W / std * (x - padded) plus what W / std makes of (padded - mean).
    """
    from onnx import numpy_helper

    values = {tensor.name: tensor for tensor in graph.initializer}
    transpose, cast, subtract, divide, convolution = _chain_from(graph, "image", 5)
    operations = [node.op_type for node in (transpose, cast, subtract, divide, convolution)]
    if operations != ["Transpose", "Cast", "Sub", "Div", "Conv"]:
        raise ValueError(f"a classifier's graph begins with {', '.join(operations)}")
    mean, std = (_constant(graph, node.input[1]).reshape(-1) for node in (subtract, divide))
    weight, bias = (numpy_helper.to_array(values[name]) for name in convolution.input[1:])
    scaled = weight / std[:, None, None]
    shift = (scaled.sum((2, 3)) * (_PADDED - mean)).sum(1)
    for name, array in zip(convolution.input[1:], (scaled, bias + shift), strict=True):
        values[name].CopyFrom(numpy_helper.from_array(array.astype(np.float32), name))
    grey = numpy_helper.from_array(np.array(_PADDED, np.float32), "padded")
    graph.initializer.append(grey)
    subtract.input[1], convolution.input[0] = grey.name, subtract.output[0]
    graph.node.remove(divide)
    return str(subtract.output[0])


def _take_bytes(graph: Any, pixels: str) -> None:
    """Feed the transposed image to the nodes that read the quantised `pixels`: these are the image's own bytes, as the
    scale is 1 and the zero point what was taken away."""
    transpose, cast, subtract, quantise_ = _chain_from(graph, "image", 4)
    assert [cast.op_type, subtract.op_type, quantise_.op_type] == ["Cast", "Sub", "QuantizeLinear"]
    assert subtract.output[0] == pixels
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == quantise_.output[0]:
                node.input[index] = transpose.output[0]
    for node in (cast, subtract, quantise_):
        graph.node.remove(node)
    read = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)


def _chain_from(graph: Any, name: str, length: int) -> list[Any]:
    """The first `length` nodes that a tensor runs through, one after the other."""
    found = []
    for _ in range(length):
        (node,) = (node for node in graph.node if name in node.input)
        found.append(node)
        name = node.output[0]
    return found


def _constant(graph: Any, name: str) -> np.ndarray:
    """An initializer or a Constant node's value."""
    from onnx import numpy_helper

    for tensor in graph.initializer:
        if tensor.name == name:
            return np.asarray(numpy_helper.to_array(tensor))
    (node,) = (node for node in graph.node if name in node.output)
    return np.asarray(numpy_helper.to_array(node.attribute[0].t))


def _answering_nodes(graph: Any) -> list[str]:
    """Names of the nodes that lead from the feature maps or the pooled features to an output: those behind which no
    convolution of the backbone lies."""
    outputs = {output.name for output in graph.output}
    makers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found: set[str] = set()
    # From each output back to the tensor that more than one branch reads: the feature maps.
    for output in outputs:
        name = output
        while name in makers and (name in outputs or len(readers.get(name, [])) <= 1):
            node = makers[name]
            found.add(node.name)
            name = node.input[0]
    return sorted(found)
