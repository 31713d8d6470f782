"""The halves of an exported generator: one that sees faces, and one that speaks, as far as it shows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.export.manifest import onnx_library
from wav2lip_npu.models.networks import first_rows

_CUT = "cut_"


def seeing_part(model: Any) -> Any:
    """The graph that makes features of faces: of `face` as inputs and outputs."""
    graph = model.graph
    return _part(model, [value for value in graph.input if value.name == "face"], list(graph.value_info))


def speaking_part(model: Any) -> Any:
    """The graph that makes pictures of sounds and features, from the rows on that `cuts` tells it.

    It is cut as `Wav2Lip.speak` cuts, so its numbers are those of the same rows of the whole.
    """
    onnx = onnx_library()
    inputs = [value for value in model.graph.input if value.name != "face"]
    part = _part(model, [*inputs, *model.graph.value_info], list(model.graph.output))
    graph, helper, kind = part.graph, onnx.helper, onnx.TensorProto.INT64
    graph.initializer.extend(
        helper.make_tensor(name, kind, [1], [value]) for name, value in (("to_the_end", 1 << 62), ("rows", 2))
    )
    for value in [*graph.input, *graph.output]:
        if value.name != "mel":
            value.type.tensor_type.shape.dim[2].dim_param = f"rows_of_{value.name}"
    joints = [node for node in graph.node if node.op_type == "Concat"]
    for number, joint in enumerate(reversed(joints[:-1])):
        whole, start = joint.output[0], f"{_CUT}{number}"
        cut = f"{whole}_{start}"
        for node in graph.node:
            node.input[:] = [cut if each == whole else each for each in node.input]
        slicing = helper.make_node("Slice", [whole, start, "to_the_end", "rows"], [cut])
        graph.node.insert(list(graph.node).index(joint) + 1, slicing)
        graph.input.append(helper.make_tensor_value_info(start, kind, [1]))
    return part


def cuts(top_row: int, levels: int) -> tuple[list[int], dict[str, NDArray[np.int64]], int]:
    """How `speaking_part` makes the rows from `top_row` on, with features of so many levels.

    The first row of each feature that it takes, finest first; what else it takes; and which row of its
    picture is the first of those.
    """
    firsts = first_rows(top_row, levels)[::-1]
    starts = [first // 2 - above for first, above in pairwise(firsts)]
    inside = {f"{_CUT}{number}": np.array([start]) for number, start in enumerate(starts)}
    return firsts, inside, top_row - firsts[0]


def _part(model: Any, inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
    """What computes the outputs of the inputs; it shares nothing with the whole."""
    onnx = onnx_library()
    given = {value.name for value in inputs}
    needed = {value.name for value in outputs}
    nodes = []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            nodes.append(node)
            needed.update(set(node.input) - given)
    part = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    part.graph.name = model.graph.name
    part.graph.input.extend(inputs)
    part.graph.output.extend(outputs)
    part.graph.node.extend(nodes[::-1])
    part.graph.initializer.extend(each for each in model.graph.initializer if each.name in needed)
    return part
