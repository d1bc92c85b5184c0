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
    border it then finds grey instead of each colour's mean. Where both sides are even they go in as blocks of 2 x 2, of
    which it makes the same sums in half the time. What comes after the pooled features (head, heat map)
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
    _read_blocks(model.graph)
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


def _read_blocks(graph: Any) -> None:
    """Rewrite the image's Transpose, Cast, Sub and a 7 x 7 convolution of stride 2 to a 4 x 4 one of stride 1 over
    blocks of 2 x 2 pixels, each with the channels of all four: the space-to-depth transform of ResNet-50's first layer
    (Ying et al. 2018, "Image Classification at Supercomputer Scale"). Leaves other convolutions, and images with an
    odd side, as they are.

    Of three channels ONNX Runtime's int8 convolution gathers three bytes at a time, which takes longer than to
    multiply them.
    """
    from onnx import helper, numpy_helper

    transpose, _, _, convolution = _chain_from(graph, "image", 4)
    _, height, width, channels = (side.dim_value for side in graph.input[0].type.tensor_type.shape.dim)
    settings = {attribute.name: helper.get_attribute_value(attribute) for attribute in convolution.attribute}
    form = [settings.get(name) for name in ("kernel_shape", "strides", "pads", "dilations", "group")]
    if height % 2 or width % 2 or form != [[7, 7], [2, 2], [3, 3, 3, 3], [1, 1], 1]:
        return
    (weight,) = (tensor for tensor in graph.initializer if tensor.name == convolution.input[1])
    values = numpy_helper.to_array(weight)
    # A row and a column of zeros before, so that the kernel begins with a block.
    padded = np.pad(values, ((0, 0), (0, 0), (1, 0), (1, 0)))
    blocks = padded.reshape(-1, channels, 4, 2, 4, 2).transpose(0, 3, 5, 1, 2, 4).reshape(-1, 4 * channels, 4, 4)
    weight.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(blocks), weight.name))
    del convolution.attribute[:]
    for name, value in (("kernel_shape", [4, 4]), ("pads", [2, 2, 1, 1])):
        convolution.attribute.append(helper.make_attribute(name, value))
    pairs, image = [-1, 2, width // 2, 2 * channels], [-1, height // 2, width // 2, 4 * channels]
    for name, shape in (("pairs_shape", pairs), ("blocks_shape", image)):
        graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), name))
    nodes = [
        helper.make_node("Reshape", ["image", "pairs_shape"], ["pairs"], "pairs"),
        helper.make_node("Transpose", ["pairs"], ["rows_of_blocks"], "rows_of_blocks", perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["rows_of_blocks", "blocks_shape"], ["blocks"], "blocks"),
    ]
    for index, node in enumerate(nodes):
        graph.node.insert(index, node)
    transpose.input[0] = "blocks"
    del graph.value_info[:]  # shapes from before


def _take_bytes(graph: Any, pixels: str) -> None:
    """Feed the bytes that `pixels` were made of to the nodes that read them quantised: these are the same, as the
    scale is 1 and the zero point what was taken away."""
    makers = {name: node for node in graph.node for name in node.output}
    subtract = makers[pixels]
    cast = makers[subtract.input[0]]
    (quantise_,) = (node for node in graph.node if pixels in node.input)
    assert [cast.op_type, subtract.op_type, quantise_.op_type] == ["Cast", "Sub", "QuantizeLinear"]
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == quantise_.output[0]:
                node.input[index] = cast.input[0]
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
