"""Manifests of exported networks, and readers that do not trust exported files.

The metadata of an .onnx file contains its manifest, under the same key as in weights files. The compiler
drops metadata, so the manifest of an .om file is a .json file next to it. An .onnx file may contain only the
operators of an export and must not refer to other files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from wav2lip_npu.errors import CheckpointError, CheckpointMismatchError, UsageError
from wav2lip_npu.export.options import DETECTORS, PRECISIONS, network_named
from wav2lip_npu.models.checkpoint import NAMES, check_mel, published_kind
from wav2lip_npu.models.weight_formats import MORE
from wav2lip_npu.storage.regular_files import open_regular, read_limited

OPSET = 13
OPERATORS = frozenset(
    {"Add", "Cast", "Concat", "Constant", "Conv", "ConvTranspose", "Div", "Flatten", "LeakyRelu", "Max"}
    | {"MaxPool", "Mul", "PRelu", "ReduceL2", "ReduceMax", "ReduceMean", "Relu", "Resize", "Sigmoid", "Split"}
    | {"Sub", "Tanh"}
)
"""Operators of all exports but int8. `atc` can compile each, see the vendor's list in docs/export.md."""
INT8_OPERATORS = frozenset({"DequantizeLinear", "QuantizeLinear", "Reshape", "Transpose"})
"""Further operators of int8 exports."""
FEATURE = "feature_"
"""Prefix of the names of a generator's face features, which are numbered from the finest."""
ATTENTION = "attention_"
"""The same for the factors of its pixels."""
DYNAMIC = "batch"
"""Name of a dynamic first dimension."""
KINDS = {"generator": "generator", "syncnet": "syncnet", "s3fd": "detector", "retinaface": "detector"}
"""Kind of weights of each network."""
INPUTS: dict[str, dict[str, list[Any]]] = {
    "generator": {"mel": [1, 80, 16], "face": [6, "size", "size"]},
    "syncnet": {"mel": [1, 80, 16], "mouths": [15, 48, 96]},
    "s3fd": {"image": [3, "height", "width"]},
    "retinaface": {"image": [3, "height", "width"]},
}
"""Names and shapes of the inputs of each network, without the batch dimension. Names are sizes that vary."""
OUTPUTS = {
    "generator": ["picture"],
    "syncnet": ["sound", "picture"],
    "s3fd": [f"{what}_{level}" for level in range(6) for what in ("classes", "offsets")],
    "retinaface": [f"{what}_{level}" for level in range(3) for what in ("classes", "offsets", "landmarks")],
}
"""Names of the outputs of each network."""
_MAX_BATCH = 4096
_FACE_SIZES = range(32, 1025)

Shapes = dict[str, list[Any]]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Description of an exported network, stored with the network."""

    network: str
    """`generator`, `syncnet`, `s3fd` or `retinaface`."""
    precision: str
    """Number format inside: `fp32`, `fp16` or `int8`. Inputs and outputs are float32."""
    batch: int | None
    """Batch size, `None` for any."""
    opset: int
    inputs: Shapes
    outputs: Shapes
    mel: dict[str, Any] | None
    """Mel settings of the training; `None` for a face detector."""
    mel_shift: float | None
    """Mel shift of the checkpoint; `None` if it was not trained by wav2lip-npu."""
    checkpoint: str
    """Name of the weights file."""
    sha256: str
    """SHA-256 of the weights file."""
    version: str
    """Version of wav2lip-npu that exported the network."""

    @property
    def face_size(self) -> int:
        """Rows and columns of a generator's faces."""
        return int(self.inputs["face"][-1])

    def as_json(self) -> str:
        """Return deterministic JSON; inputs and outputs are in the order of the graph."""
        return json.dumps({**asdict(self), "network": published_kind(self.network)})


_MAX_MANIFEST = 1 << 20
"""Size limit in bytes. A manifest has about 1 kB."""
_MAX_MODEL = 1 << 30
"""Size limit in bytes. The published generator has 0.15 GB."""


def manifest_path(path: Path) -> Path:
    """Return the path of the manifest of an .om file."""
    return path.with_suffix(".json")


def read_om_manifest(path: str | os.PathLike[str], network: str | None = None) -> Manifest:
    """Return the manifest of an .om file. Raises `CheckpointError` if it cannot be used."""
    source = Path(path)
    _check_not_empty(source)
    try:
        text = read_limited(manifest_path(source), _MAX_MANIFEST)
    except OSError:
        raise CheckpointError(
            f"{manifest_path(source)} is missing; it describes {source.name}. "
            "Keep this output of wav2lip-npu export next to the file."
        ) from None
    return _checked(_parsed(text, source), network, source)


def read_onnx(path: str | os.PathLike[str], network: str | None = None) -> tuple[Any, Manifest]:
    """Return the graph (`onnx.ModelProto`) of an exported network and its manifest.

    Raises `CheckpointError` if the file is damaged, was not exported by wav2lip-npu, is of another network
    than `network`, or needs another version; `UsageError` if the onnx package is missing.
    """
    onnx = import_onnx()
    source = Path(path)
    _check_not_empty(source)
    try:
        content = read_limited(source, _MAX_MODEL)
    except OSError as error:
        raise CheckpointError(f"cannot read {source}: {error.strerror}. Check its path.") from None
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # of any type: the parser raises many for a damaged file
        raise damaged_file(source, error) from None
    text = {entry.key: entry.value for entry in model.metadata_props}.get(MORE)
    if text is None:
        raise _foreign(source, "it has no manifest")
    manifest = _checked(_parsed(text, source), network, source)
    if has_external_data(model, onnx):
        raise _foreign(source, "it refers to other files")
    if unknown := sorted({_full_name(node) for node in model.graph.node} - OPERATORS - INT8_OPERATORS):
        raise _foreign(source, f"no export contains the operator {unknown[0]}")
    if not is_plain(model):
        raise _foreign(source, "it contains more than a plain graph")
    declared = [[*manifest.inputs.items()], [*manifest.outputs.items()]]
    if [[*shapes_of(values).items()] for values in (model.graph.input, model.graph.output)] != declared:
        raise _foreign(source, "its inputs and outputs differ from its manifest")
    return model, manifest


def shapes_of(values: Iterable[Any]) -> Shapes:
    """Return shapes of the inputs or outputs of a graph by name; a dynamic dimension is its name."""
    return {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in values
    }


def import_onnx() -> Any:
    """Return the `onnx` module. Raises `UsageError` if it or onnxruntime is missing."""
    try:
        import onnx
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"exported .onnx files need the package {error.name}. Run pip install onnx onnxruntime."
        ) from None
    return onnx


def damaged_file(source: str | os.PathLike[str], error: Exception) -> CheckpointError:
    """Return the error to raise for an exported file that cannot be parsed."""
    return CheckpointError(
        f"{source} is damaged ({type(error).__name__}). Export it again, or copy it again."
    )


def _full_name(node: Any) -> str:
    return f"{node.domain}.{node.op_type}".lstrip(".")


def is_plain(model: Any) -> bool:
    """Return whether a model contains only nodes and dense tensors: no subgraphs, no functions."""
    attributes = [attribute for node in model.graph.node for attribute in node.attribute]
    nested = any(item.HasField("g") or item.graphs or item.tensors for item in attributes)
    sparse = any(item.HasField("sparse_tensor") or item.sparse_tensors for item in attributes)
    return not (nested or sparse or model.functions or model.training_info or model.graph.sparse_initializer)


def has_external_data(model: Any, onnx: Any) -> bool:
    """Return whether an initializer or a constant is stored in another file."""
    constants = (item.t for node in model.graph.node for item in node.attribute if item.HasField("t"))
    tensors = [*model.graph.initializer, *constants]
    return any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in tensors)


def _foreign(source: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"{source} was not exported by this version of wav2lip-npu: {why}. Export the weights again."
    )


def _check_not_empty(source: Path) -> None:
    """Raise `CheckpointError` if the file is empty or cannot be read."""
    try:
        with open_regular(source) as file:
            head = file.read(16)
    except OSError as error:
        raise CheckpointError(f"cannot read {source}: {error.strerror}. Check its path.") from None
    if not head:
        raise CheckpointError(f"{source} is empty. Export it again or copy it again.")


def _parsed(text: str | bytes, source: Path) -> Manifest:
    try:
        content = json.loads(text)
        values = {field.name: content[field.name] for field in fields(Manifest)}
        manifest = Manifest(**{**values, "network": network_named(values["network"])})
        valid = (
            manifest.network in KINDS
            and manifest.precision in PRECISIONS
            and (manifest.batch is None or (type(manifest.batch) is int and 0 < manifest.batch <= _MAX_BATCH))
            and all(isinstance(shapes, dict) and shapes for shapes in (manifest.inputs, manifest.outputs))
            and isinstance(manifest.mel_shift, (int, float, type(None)))
            and all(isinstance(getattr(manifest, name), str) for name in ("sha256", "checkpoint"))
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        valid = False
    if not valid:
        raise _foreign(source, "its manifest is damaged or from another version")
    return manifest


def _checked(manifest: Manifest, network: str | None, source: Path) -> Manifest:
    """Return the manifest. Raises `CheckpointMismatchError` for another network or other mel settings."""
    network = network or manifest.network
    if manifest.network != network:
        actual, wanted = (NAMES[KINDS[name]] for name in (manifest.network, network))
        raise CheckpointMismatchError(f"{source} is {actual}, not {wanted}. Pass the file of a {network}.")
    if manifest.mel is None and network not in DETECTORS:
        raise _foreign(source, "its manifest has no mel settings")
    check_mel(manifest.mel, source)
    for name, wanted_shape in INPUTS[network].items():
        shape = manifest.inputs.get(name, [])[1:]
        if len(shape) != len(wanted_shape) or any(
            a != b for a, b in zip(shape, wanted_shape, strict=True) if isinstance(b, int)
        ):
            raise CheckpointMismatchError(
                f"{source} takes the input {name} as {shape}, this version passes {wanted_shape}. "
                "Export the weights again."
            )
    if network == "generator" and manifest.inputs["face"][2:] not in [[size, size] for size in _FACE_SIZES]:
        raise _foreign(source, "its faces have no known size")
    return manifest
