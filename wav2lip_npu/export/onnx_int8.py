"""Quantise a generator's graph to int8, statically, for processors with VNNI or AMX.

Weights are int8 with a scale per channel, activations uint8 with a scale per tensor, as pairs of
QuantizeLinear and DequantizeLinear, which onnxruntime fuses with the operator between them. It has no int8
kernel for transposed convolutions, so each becomes a convolution and a rearrangement of its result.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wav2lip_npu import signals
from wav2lip_npu.export.manifest import import_onnx
from wav2lip_npu.models.networks import FACE_SIZE

Arrays = dict[str, NDArray[Any]]
"""Inputs of a graph by name."""
_TAPS = {0: {0: 1}, 1: {0: 2, 1: 0}}
"""Offset of the input and row of the 3x3 kernel for even and odd rows of a doubled image."""


def quantised(model: Any, samples: Iterable[Arrays]) -> Any:
    """Return the graph of a generator in int8. The ranges of its activations are those of the samples.

    `samples` are inputs of the graph by name. The first and the last layers, which take little time, stay in
    float32. The face features, at which an engine splits the graph, are uint8.
    """
    onnx = import_onnx()
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        """Passes the samples on, until a signal arrives."""

        def __init__(self) -> None:
            self._samples = iter(samples)

        def get_next(self) -> Arrays | None:
            signals.check()
            return next(self._samples, None)

    features = list(model.graph.value_info)
    replace_transposed(model)
    onnx.helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})  # no warning
    with tempfile.TemporaryDirectory() as folder:
        source, target = (os.path.join(folder, name) for name in ("float.onnx", "int8.onnx"))
        onnx.save_model(model, source)
        quantization.quantize_static(
            source,
            target,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=_outer_layers(model.graph),
        )
        model = onnx.load_model(target)
    _expose_features(model, features)
    return model


def _outer_layers(graph: Any) -> list[str]:
    """Return the names of the convolutions of the inputs, and of the last convolution and its sigmoid."""
    inputs = {value.name for value in graph.input}
    first = [node.name for node in graph.node if inputs & set(node.input)]
    return [*first, *(node.name for node in graph.node[-2:])]


def _expose_features(model: Any, features: Sequence[Any]) -> None:
    """Give the names of the face features to their uint8 values, and describe only these."""
    graph = model.graph
    new = {value.name: f"{value.name}_float" for value in features}
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] in new:
            new[node.output[0]] = node.input[0]
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [new.get(name, name) for name in names]
    for value in features:
        value.type.tensor_type.elem_type = import_onnx().TensorProto.UINT8
    del graph.value_info[:]
    graph.value_info.extend(features)


def replace_transposed(model: Any) -> None:
    """Replace transposed 3x3 convolutions of a generator by convolutions of the same result, in place.

    Each computes the k x k pixels of the result as k² groups of channels. They are moved to their places as
    [B, H, k, W, k, C], the order in which an int8 convolution has its result, so that this is a plain copy.
    """
    onnx = import_onnx()
    graph, helper = model.graph, onnx.helper
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    nodes, width = [], 1
    for node in graph.node:
        if node.op_type != "ConvTranspose":
            nodes.append(node)
            continue
        kernel, bias = (onnx.numpy_helper.to_array(tensors[name]) for name in node.input[1:])
        strides = next(helper.get_attribute_value(item) for item in node.attribute if item.name == "strides")
        groups = _groups_of_first(kernel) if strides[0] == 1 else _groups(kernel)
        factor, channels, size = len(groups), len(bias), groups.shape[-1]
        weights = groups.reshape(factor**2 * channels, -1, size, size)
        for name, values in zip(node.input[1:], (weights, np.tile(bias, factor**2)), strict=True):
            tensors[name].CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(values), name))
        name, result = node.name, node.output[0]
        parts = [f"{result}_{number}" for number in range(5)]
        shapes = {
            f"{result}_split": [0, 0, width, factor, factor, channels],
            f"{result}_joined": [0, -1, width * factor, channels],
        }
        for shape_name, shape in shapes.items():
            graph.initializer.append(onnx.numpy_helper.from_array(np.array(shape, np.int64), shape_name))
        split, joined = shapes
        pads = [0, 0, size - 1, size - 1]
        nodes += [
            helper.make_node("Conv", list(node.input), parts[:1], f"{name}_conv", pads=pads),
            helper.make_node("Transpose", parts[:1], parts[1:2], f"{name}_last", perm=[0, 2, 3, 1]),
            helper.make_node("Reshape", [parts[1], split], parts[2:3], f"{name}_split"),
            helper.make_node("Transpose", parts[2:3], parts[3:4], f"{name}_place", perm=[0, 1, 3, 2, 4, 5]),
            helper.make_node("Reshape", [parts[3], joined], parts[4:5], f"{name}_join"),
            helper.make_node("Transpose", parts[4:5], [result], f"{name}_first", perm=[0, 3, 1, 2]),
        ]
        width *= factor
    assert width == FACE_SIZE, width
    del graph.node[:]
    graph.node.extend(nodes)


def _groups(kernel: NDArray[Any]) -> NDArray[Any]:
    """Return the kernels [2, 2, out, in, 2, 2] of the pixels that a kernel of stride 2 makes of one."""
    groups = np.zeros((2, 2, *kernel.shape[1::-1], 2, 2), kernel.dtype)
    for y, rows in _TAPS.items():
        for x, columns in _TAPS.items():
            for below, row in rows.items():
                for right, column in columns.items():
                    groups[y, x, :, :, below, right] = kernel[:, :, row, column].T
    return groups


def _groups_of_first(kernel: NDArray[Any]) -> NDArray[Any]:
    """Return the kernels [3, 3, out, in, 1, 1] of the pixels that a kernel of stride 1 makes of one pixel."""
    moved: NDArray[Any] = kernel.transpose(2, 3, 1, 0)[..., None, None]
    return moved
