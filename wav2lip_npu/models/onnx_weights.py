"""Read the weights of an ONNX file without the package `onnx`, which is not a dependency.

Only what is needed of Protocol Buffers: a message is a sequence of fields, each a number with a varint or
with bytes, which may be a message again.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.errors import CheckpointError

_GRAPH, _NODE, _INITIALIZER = 7, 1, 5
"""Fields of ModelProto and GraphProto, as in onnx.proto."""
_INPUT, _OUTPUT, _NAME, _OP_TYPE = 1, 2, 3, 4
"""Fields of NodeProto."""
_DIMS, _DATA_TYPE, _TENSOR_NAME, _RAW_DATA = 1, 2, 8, 9
"""Fields of TensorProto."""
_FLOAT = 1
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
"""Wire types."""

Weights = NDArray[np.float32]


def convolution_weights(model: bytes) -> dict[str, tuple[Weights, Weights]]:
    """Return weight and bias of each convolution of an ONNX model, by the name of its node.

    Raises:
        CheckpointError: The bytes are not an ONNX model with float32 weights.

    """
    try:
        return _convolutions(memoryview(model))
    except (ValueError, KeyError, IndexError) as error:
        raise CheckpointError(f"not an ONNX model with float32 weights ({error}).") from None


def _convolutions(model: memoryview) -> dict[str, tuple[Weights, Weights]]:
    graph = next((value for number, value in _fields(model) if number == _GRAPH), None)
    if graph is None:
        raise ValueError("it has no graph")
    tensors: dict[str, Weights] = {}
    nodes = []
    for number, value in _fields(_message(graph)):
        if number == _INITIALIZER:
            name, tensor = _tensor(_message(value))
            tensors[name] = tensor
        elif number == _NODE:
            nodes.append(_node(_message(value)))
    copies = {outputs[0]: inputs[0] for _, kind, inputs, outputs in nodes if kind == "Identity"}
    found = {}
    for name, kind, inputs, _ in nodes:
        if kind == "Conv":
            weight, bias = (tensors[copies.get(item, item)] for item in inputs[1:])
            found[name] = weight, bias
    return found


def _tensor(message: memoryview) -> tuple[str, Weights]:
    shape, name, kind, raw = [], "", 0, memoryview(b"")
    for number, value in _fields(message):
        if number == _DIMS:
            shape += [value] if isinstance(value, int) else list(_varints(value))
        elif number == _DATA_TYPE:
            kind = int(value)  # type: ignore[arg-type]
        elif number == _TENSOR_NAME:
            name = bytes(_message(value)).decode()
        elif number == _RAW_DATA:
            raw = _message(value)
    if kind != _FLOAT:
        return name, np.empty(0, np.float32)
    return name, np.frombuffer(raw, "<f4").reshape(shape).copy()


def _node(message: memoryview) -> tuple[str, str, list[str], list[str]]:
    """Return name, operator, inputs and outputs of a node."""
    texts: dict[int, list[str]] = {_INPUT: [], _OUTPUT: [], _NAME: [], _OP_TYPE: []}
    for number, value in _fields(message):
        if number in texts:
            texts[number].append(bytes(_message(value)).decode())
    return "".join(texts[_NAME]), "".join(texts[_OP_TYPE]), texts[_INPUT], texts[_OUTPUT]


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where a message should be")
    return value


def _fields(message: int | memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the number and value of each field of a message."""
    rest = _message(message)
    while rest:
        key, rest = _varint(rest)
        kind = key & 7
        if kind == _VARINT:
            value, rest = _varint(rest)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            size, rest = _varint(rest)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {kind}")
        if size > len(rest):
            raise ValueError("it is truncated")
        yield key >> 3, rest[:size]
        rest = rest[size:]


def _varints(packed: memoryview) -> Iterator[int]:
    while packed:
        value, packed = _varint(packed)
        yield value


def _varint(data: memoryview) -> tuple[int, memoryview]:
    """Return the number at the start of the data, and the rest."""
    value = 0
    for position in range(10):
        byte = data[position]
        value |= (byte & 127) << (7 * position)
        if byte < 128:
            return value, data[position + 1 :]
    raise ValueError("a number of more than ten bytes")
