"""Exported networks on disk: what they tell of themselves, and reading them back without trust.

An .onnx file carries its description inside, under the key that weights files of ours use; beside an .om
file, in which the compiler leaves nothing of it, lies a .json of the same name. Nothing of an .onnx file is
ever run but the operators that an export writes, and no other file is read on its behalf.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from wav2lip_npu.errors import CheckpointError, CheckpointMismatchError, UsageError
from wav2lip_npu.models.checkpoint import NAMES, check_mel, published_kind
from wav2lip_npu.models.weight_formats import MORE

ONNX, OM, TORCH = "onnx", "om", "torch"
ENGINES = ("auto", TORCH, ONNX, OM)
PRECISIONS = ("fp32", "fp16")
OPSET = 13
OPERATORS = frozenset(
    {"Add", "Cast", "Concat", "Constant", "Conv", "ConvTranspose", "Div", "Flatten", "Max", "MaxPool", "Mul"}
    | {"ReduceL2", "ReduceMax", "Relu", "Sigmoid", "Split", "Sub"}
)
"""All that an export writes. Each is in the vendor's list of what atc compiles: docs/export.md."""
FEATURE = "feature_"
"""How the features of a face are called inside a generator, finest first."""
DYNAMIC = "batch"
"""Name of the first dimension where it may be any number."""
KINDS = {"generator": "generator", "syncnet": "syncnet", "s3fd": "detector"}
"""Kind of the weights of each network that can be exported."""
INPUTS: dict[str, dict[str, list[Any]]] = {
    "generator": {"mel": [1, 80, 16], "face": [6, 96, 96]},
    "syncnet": {"mel": [1, 80, 16], "mouths": [15, 48, 96]},
    "s3fd": {"image": [3, "height", "width"]},
}
"""Names and shapes of what each takes, without the batch."""
OUTPUTS = {
    "generator": ["picture"],
    "syncnet": ["sound", "picture"],
    "s3fd": [f"{what}_{level}" for level in range(6) for what in ("classes", "offsets")],
}
_MOST = 4096

Shapes = dict[str, list[Any]]


@dataclass(frozen=True, kw_only=True)
class About:
    """What an exported network tells of itself."""

    network: str
    """`generator`, `syncnet` or `s3fd`."""
    precision: str
    """`fp32` or `fp16`: the numbers inside; inputs and outputs are float32."""
    batch: int | None
    """Of a static file, `None` for one that takes any."""
    opset: int
    inputs: Shapes
    outputs: Shapes
    mel: dict[str, Any] | None
    """Settings of the sound that the network hears; none for a face detector."""
    mel_shift: float | None
    """That of the checkpoint, if it told one: only those of this package do."""
    checkpoint: str
    """Name of the file of weights that it was made of."""
    sha256: str
    """Of that file."""
    version: str
    """Of the package that exported it."""

    def as_json(self) -> str:
        """The same bytes for the same content; inputs and outputs in the order of the graph."""
        return json.dumps({**asdict(self), "network": published_kind(self.network)})


def file_name(network: str, batch: int | None, precision: str, size: tuple[int, int] | None = None) -> str:
    """`generator_b8_fp16.onnx` and the like."""
    words = [
        network,
        f"b{batch}" if batch else "",
        f"{size[0]}x{size[1]}" if size else "",
        precision if precision != "fp32" else "",
    ]
    return "_".join(filter(None, words)) + f".{ONNX}"


def engine_of(path: str | os.PathLike[str], engine: str = "auto") -> str:
    """What runs a file of weights: `onnx`, `om` or `torch`. Raises `UsageError` if another is asked for."""
    if engine not in ENGINES:
        raise UsageError(f"unknown engine {engine!r}. Pass --engine {', '.join(ENGINES)}.")
    suffix = os.path.splitext(path)[1].lower().lstrip(".")
    own = suffix if suffix in (ONNX, OM) else TORCH
    if engine in ("auto", own):
        return own
    if engine == TORCH:
        raise UsageError(
            f"{path} is an exported file, which torch does not run. Pass the weights themselves."
        )
    raise UsageError(
        f"--engine {engine} runs an exported file, and {path} is none. "
        f"Run wav2lip-npu export --format {engine} and pass what it writes as --checkpoint_path."
    )


def network_of(name: str) -> str:
    """Return the network that a user or a file means; `expert` is the former name of `syncnet`."""
    return "syncnet" if name == published_kind("syncnet") else name


def beside(path: Path) -> Path:
    """Where the description of an .om file lies."""
    return path.with_suffix(".json")


def read_beside(path: str | os.PathLike[str], network: str | None = None) -> About:
    """The description of an .om file. Raises `CheckpointError` when it cannot be used here."""
    source = Path(path)
    _first_bytes(source)
    try:
        text = beside(source).read_bytes()
    except OSError:
        raise CheckpointError(
            f"{beside(source)} is missing, which tells what {source.name} is. "
            "wav2lip-npu export writes it: keep it beside the file."
        ) from None
    return _checked(_about(text, source), network, source)


def read_onnx(path: str | os.PathLike[str], network: str | None = None) -> tuple[Any, About]:
    """The graph (`onnx.ModelProto`) of an exported network, and its description.

    Raises `CheckpointError` when it is damaged, of another origin, not of the `network` that is wanted or
    cannot be used here, and `UsageError` when the library that reads it is missing.
    """
    onnx = onnx_library()
    source = Path(path)
    _first_bytes(source)
    try:
        model = onnx.load_model_from_string(source.read_bytes())
    except Exception as error:  # there is no end to what a damaged file makes a parser raise
        raise damaged(source, error) from None
    told = {each.key: each.value for each in model.metadata_props}.get(MORE)
    if told is None:
        raise _foreign(source, "it does not tell of which weights it was made")
    about = _checked(_about(told, source), network, source)
    if _refers_elsewhere(model, onnx):
        raise _foreign(source, "it refers to other files")
    if odd := sorted({_full_name(node) for node in model.graph.node} - OPERATORS):
        raise _foreign(source, f"its operator {odd[0]} is none that an export writes")
    if not _is_plain(model):
        raise _foreign(source, "it holds more than a plain graph")
    told_of = [*about.inputs.items()], [*about.outputs.items()]
    if tuple([*shapes_of(each).items()] for each in (model.graph.input, model.graph.output)) != told_of:
        raise _foreign(source, "its inputs and outputs are not those that it tells of")
    return model, about


def shapes_of(values: Iterable[Any]) -> Shapes:
    """Shapes by name of the inputs or outputs of a graph; a dimension of any size is called by its name."""
    return {
        value.name: [each.dim_param or each.dim_value for each in value.type.tensor_type.shape.dim]
        for value in values
    }


def onnx_library() -> Any:
    """The module that reads and writes .onnx files. Raises `UsageError` when it or its runtime is missing."""
    try:
        import onnx
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"exported .onnx files need the package {error.name}. Run pip install 'wav2lip-npu[export]'."
        ) from None
    return onnx


def damaged(source: str | os.PathLike[str], error: Exception) -> CheckpointError:
    """What to raise when a file cannot be read as what it is."""
    return CheckpointError(
        f"{source} is damaged ({type(error).__name__}). Export it again, or copy it again."
    )


def _full_name(node: Any) -> str:
    return f"{node.domain}.{node.op_type}".lstrip(".")


def _is_plain(model: Any) -> bool:
    """Whether there is nothing but nodes and tensors in it: no graph inside a node, no function."""
    attributes = [each for node in model.graph.node for each in node.attribute]
    nested = any(each.HasField("g") or each.graphs or each.tensors for each in attributes)
    sparse = any(each.HasField("sparse_tensor") or each.sparse_tensors for each in attributes)
    return not (nested or sparse or model.functions or model.training_info or model.graph.sparse_initializer)


def _refers_elsewhere(model: Any, onnx: Any) -> bool:
    """Whether a tensor lies in another file, in the graph or in a constant of it."""
    constants = (each.t for node in model.graph.node for each in node.attribute if each.HasField("t"))
    tensors = [*model.graph.initializer, *constants]
    return any(each.data_location == onnx.TensorProto.EXTERNAL for each in tensors)


def _foreign(source: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"{source} is not what wav2lip-npu export writes: {why}. Export the weights with this version."
    )


def _first_bytes(source: Path) -> None:
    """Raise `CheckpointError` when there is nothing to read."""
    try:
        with source.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise CheckpointError(f"cannot read {source}: {error.strerror}. Check its path.") from None
    if not head:
        raise CheckpointError(f"{source} is empty. Export it again or copy it again.")


def _about(text: str | bytes, source: Path) -> About:
    try:
        content = json.loads(text)
        values = {each.name: content[each.name] for each in fields(About)}
        about = About(**{**values, "network": network_of(values["network"])})
        whole = (
            about.network in KINDS
            and about.precision in PRECISIONS
            and (about.batch is None or (type(about.batch) is int and 0 < about.batch <= _MOST))
            and all(isinstance(shapes, dict) and shapes for shapes in (about.inputs, about.outputs))
            and isinstance(about.mel_shift, (int, float, type(None)))
            and all(isinstance(getattr(about, name), str) for name in ("sha256", "checkpoint"))
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        whole = False
    if not whole:
        raise _foreign(source, "its description is of another version or damaged")
    return about


def _checked(about: About, network: str | None, source: Path) -> About:
    """The description. Raises `CheckpointMismatchError` when it is of another network or of other sound."""
    network = network or about.network
    if about.network != network:
        found, wanted = (NAMES[KINDS[name]] for name in (about.network, network))
        raise CheckpointMismatchError(
            f"{source} holds {found}, but {wanted} is wanted. Pass the {network}'s file."
        )
    if about.mel is None and network != "s3fd":
        raise _foreign(source, "it does not tell what sound it was trained on")
    check_mel(about.mel, source)
    for name, wanted_shape in INPUTS[network].items():
        shape = about.inputs.get(name, [])[1:]
        if len(shape) != len(wanted_shape) or any(
            a != b for a, b in zip(shape, wanted_shape, strict=True) if isinstance(b, int)
        ):
            raise CheckpointMismatchError(
                f"{source} takes {name} of {shape}, but {wanted_shape} is made here. "
                "Export the weights with this version."
            )
    return about
