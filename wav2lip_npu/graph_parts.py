"""Parts of an exported generator: the half that sees faces, and the half that speaks, as far as it shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wav2lip_npu.exported import FEATURE, onnx_library
from wav2lip_npu.models import first_rows

_TO_THE_END = 1 << 30


def seeing_part(model: Any) -> Any:
    """The graph that makes features of faces: of `face` as inputs and outputs."""
    graph = model.graph
    return _part(model, [value for value in graph.input if value.name == "face"], list(graph.value_info))


def speaking_part(model: Any, top_row: int = 0) -> Any:
    """The graph that makes pictures of sounds and features: only their rows from `top_row` on.

    It is cut as `Wav2Lip.speak` cuts, so its numbers are those of the same rows of the whole.
    """
    onnx = onnx_library()
    graph = model.graph
    inputs = [value for value in graph.input if value.name != "face"]
    part = _part(model, [*inputs, *graph.value_info], list(graph.output))
    if not top_row:
        return part
    joints = [node for node in part.graph.node if node.op_type == "Concat"]
    lowered = _Lowered(onnx, part.graph)
    start, above = 0, None
    for joint, first in zip(joints, first_rows(top_row, len(joints)), strict=True):
        if above is not None:
            lowered.cut(above.output[0], first // 2 - start)
        (feature,) = (name for name in joint.input if name.startswith(FEATURE))
        lowered.cut(feature, first)
        start, above = first, joint
    lowered.cut_output(top_row - start)
    return part


class _Lowered:
    """Cuts upper rows off tensors of a graph, in place."""

    def __init__(self, onnx: Any, graph: Any) -> None:
        self._onnx, self._graph = onnx, graph

    def cut(self, name: str, rows: int) -> None:
        """Let all that read a tensor read it without its first rows."""
        if rows:
            cut = f"{name}_from_{rows}"
            readers = [node for node in self._graph.node if name in node.input]
            for node in readers:
                node.input[:] = [cut if each == name else each for each in node.input]
            self._insert(name, cut, rows, list(self._graph.node).index(readers[0]))

    def cut_output(self, rows: int) -> None:
        """Take the first rows off the only output."""
        (output,) = self._graph.output
        whole = f"{output.name}_whole"
        for node in self._graph.node:
            node.output[:] = [whole if each == output.name else each for each in node.output]
        self._insert(whole, output.name, rows, len(self._graph.node))
        output.type.tensor_type.shape.dim[2].dim_param = "rows"

    def _insert(self, name: str, cut: str, rows: int, at: int) -> None:
        helper, kind = self._onnx.helper, self._onnx.TensorProto.INT64
        values = {"starts": rows, "ends": _TO_THE_END, "axes": 2}
        tensors = [helper.make_tensor(f"{cut}_{key}", kind, [1], [each]) for key, each in values.items()]
        self._graph.initializer.extend(tensors)
        node = helper.make_node("Slice", [name, *(each.name for each in tensors)], [cut])
        self._graph.node.insert(at, node)


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
