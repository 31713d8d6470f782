"""Split an exported generator in two: a face encoder, and a decoder that computes only the required rows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.export.manifest import import_onnx
from wav2lip_npu.models.generator import first_rows

_CUT = "cut_"


def encoder_part(model: Any) -> Any:
    """Return the graph with the input `face` and the face features as outputs."""
    graph = model.graph
    return _part(model, [value for value in graph.input if value.name == "face"], list(graph.value_info))


def decoder_part(model: Any) -> Any:
    """Return the graph with mels and face features as inputs and faces as output.

    Further inputs are the rows at which to slice, see `row_slices`. It slices like `Wav2Lip.decode`, so its
    rows equal those of the whole graph.
    """
    onnx = import_onnx()
    inputs = [value for value in model.graph.input if value.name != "face"]
    part = _part(model, [*inputs, *model.graph.value_info], list(model.graph.output))
    graph, helper, kind = part.graph, onnx.helper, onnx.TensorProto.INT64
    graph.initializer.extend(
        helper.make_tensor(name, kind, [1], [value]) for name, value in (("to_the_end", 1 << 62), ("rows", 2))
    )
    for value in [*graph.input, *graph.output]:
        if value.name != "mel":
            value.type.tensor_type.shape.dim[2].dim_param = f"rows_of_{value.name}"
    concats = [node for node in graph.node if node.op_type == "Concat"]
    for number, concat in enumerate(reversed(concats[:-1])):
        last = _quantiser(graph, concat)
        whole, start = last.output[0], f"{_CUT}{number}"
        cut = f"{whole}_{start}"
        for node in graph.node:
            node.input[:] = [cut if name == whole else name for name in node.input]
        slicing = helper.make_node("Slice", [whole, start, "to_the_end", "rows"], [cut])
        graph.node.insert(list(graph.node).index(last) + 1, slicing)
        graph.input.append(helper.make_tensor_value_info(start, kind, [1]))
    return part


def _quantiser(graph: Any, node: Any) -> Any:
    """Return the node that quantises the output of a node, or the node itself if it is not quantised.

    A slice between the two would keep onnxruntime from fusing them.
    """
    users = [user for user in graph.node if node.output[0] in user.input]
    return users[0] if [user.op_type for user in users] == ["QuantizeLinear"] else node


class RowSlices(NamedTuple):
    """Arguments of the graph of `decoder_part` that compute the rows from a given row."""

    feature_rows: list[int]
    """First row of each feature to pass, finest first."""
    inputs: dict[str, NDArray[np.int64]]
    """Further inputs by name."""
    output_row: int
    """First row of the output to use."""


def row_slices(top_row: int, heights: Sequence[int]) -> RowSlices:
    """Return the slices that compute the rows from `top_row`, for features of these heights, finest first."""
    firsts = first_rows(top_row, heights)
    starts = [first // 2 - above for first, above in pairwise(firsts)]
    inputs = {f"{_CUT}{number}": np.array([start]) for number, start in enumerate(starts)}
    return RowSlices(firsts, inputs, top_row - firsts[0])


def _part(model: Any, inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
    """Return a copy of the nodes that compute the outputs from the inputs."""
    onnx = import_onnx()
    available = {value.name for value in inputs}
    needed = {value.name for value in outputs}
    nodes = []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            nodes.append(node)
            needed.update(set(node.input) - available)
    part = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    part.graph.name = model.graph.name
    part.graph.input.extend(inputs)
    part.graph.output.extend(outputs)
    part.graph.node.extend(nodes[::-1])
    part.graph.initializer.extend(item for item in model.graph.initializer if item.name in needed)
    return part
