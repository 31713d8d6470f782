"""Networks as ONNX graphs of plain operators of opset 13, which the vendor's compiler takes.

Batch norms are folded. Norms are of numbers over the largest of them: their squares would not fit in fp16,
which that compiler computes in unless told otherwise.
"""

from __future__ import annotations

import copy
import os
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from wav2lip_npu.export.manifest import DYNAMIC, FEATURE, INPUTS, OPSET, OUTPUTS, onnx_library
from wav2lip_npu.faces.s3fd import S3FD_MEANS
from wav2lip_npu.models.networks import SyncNet, Wav2Lip, fold_norms

_LEAST = 1e-4
_HALF = "_half"
DYNAMIC_SIZE = (96, 128)
"""Height and width of the pictures that a graph for any size is traced with."""


def graph_of(
    network: str, module: nn.Module, batch: int | None = None, size: tuple[int, int] | None = None
) -> Any:
    """The graph (`onnx.ModelProto`) of a network in eval mode, float32, for batches of `batch` or any number.

    Pictures for S3FD are of `size`, height and width, or of any size.
    """
    onnx = onnx_library()
    traced = _traceable(network, copy.deepcopy(module))
    features = [f"{FEATURE}{number}" for number in range(7)] if network == "generator" else []
    names = [*INPUTS[network], *OUTPUTS[network], *features]
    rows, columns = size or DYNAMIC_SIZE
    given = tuple(
        torch.zeros(batch or 2, shape[0], *([rows, columns] if network == "s3fd" else shape[1:]))
        for shape in INPUTS[network].values()
    )
    with torch.inference_mode(), warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # it is deprecated for an exporter that begins at opset 18
        torch.onnx.export(
            traced,
            given,
            os.path.join(folder, "traced.onnx"),
            input_names=list(INPUTS[network]),
            output_names=names[len(INPUTS[network]) :],
            dynamic_axes={name: _free(name, batch is None, network == "s3fd" and not size) for name in names},
            opset_version=OPSET,
            dynamo=False,
        )
        model = onnx.load_model(os.path.join(folder, "traced.onnx"))
    inner = [value for value in model.graph.output if value.name in features]
    for value in inner:
        model.graph.output.remove(value)
    del model.graph.value_info[:]
    model.graph.value_info.extend(inner)
    return model


def _free(name: str, batch: bool, size: bool) -> dict[int, str]:
    """Names of the dimensions of an input or output that may be of any size."""
    level = "" if name in INPUTS["s3fd"] else name[-2:]
    free = {0: DYNAMIC} if batch else {}
    return free | ({2: f"height{level}", 3: f"width{level}"} if size else {})


def halve(model: Any) -> None:
    """Turn the numbers inside a graph into float16, in place; inputs and outputs stay float32."""
    onnx = onnx_library()
    graph, cast = model.graph, onnx.helper.make_node
    float_, half = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
    constants = [each.t for node in graph.node for each in node.attribute if each.HasField("t")]
    for tensor in [*graph.initializer, *constants]:
        if tensor.data_type == float_:
            values = onnx.numpy_helper.to_array(tensor).astype("float16")
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    for value in graph.value_info:
        value.type.tensor_type.elem_type = half
    outer = {value.name for value in [*graph.input, *graph.output]}
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [name + _HALF if name in outer else name for name in names]
    before = [cast("Cast", [v.name], [v.name + _HALF], f"to_half_{v.name}", to=half) for v in graph.input]
    after = [cast("Cast", [v.name + _HALF], [v.name], f"from_half_{v.name}", to=float_) for v in graph.output]
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)


def _traceable(network: str, module: nn.Module) -> nn.Module:
    """The network with folded norms, and what lies in its middle among its outputs."""
    fold_norms(module)
    wrap: dict[str, Callable[[Any], nn.Module]] = {
        "generator": _Generator,
        "syncnet": _SyncNet,
        "s3fd": _Finder,
    }
    return wrap[network](module).eval()


class _Generator(nn.Module):
    """The picture, then the features of the faces, where an engine may cut the graph in two."""

    def __init__(self, network: Wav2Lip) -> None:
        super().__init__()
        self.network = network

    def forward(self, mels: Tensor, faces: Tensor) -> tuple[Tensor, ...]:
        features = self.network.encode_faces(faces)
        return self.network.speak(mels, features), *features


class _SyncNet(nn.Module):
    """The embeddings of sound and picture."""

    def __init__(self, network: SyncNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, mels: Tensor, mouths: Tensor) -> tuple[Tensor, Tensor]:
        sound = self.network.audio_encoder(mels).flatten(1)
        picture = self.network.face_encoder(mouths).flatten(1)
        return _unit(sound), _unit(picture)


class _Finder(nn.Module):
    """S3FD on pictures BGR in 0 to 255."""

    means: Tensor

    def __init__(self, network: Any) -> None:
        super().__init__()
        for name in ("conv3_3_norm", "conv4_3_norm", "conv5_3_norm"):
            setattr(network, name, _Scaled(getattr(network, name).weight))
        self.network = network
        self.register_buffer("means", torch.tensor(S3FD_MEANS).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        with _PlainChunks():
            return tuple(self.network(images - self.means))


class _PlainChunks(TorchFunctionMode):
    """Cuts channels apart one by one: PyTorch's own chunk would be traced with sums on shapes in it."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), more: dict[str, Any] | None = None
    ) -> Any:
        if function is torch.chunk:
            tensor, _, dimension = args
            return tensor.split(1, dimension)
        return function(*args, **(more or {}))


class _Scaled(nn.Module):
    """S3FD's norm over channels, each with a weight."""

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach().view(1, -1, 1, 1).clone())

    def forward(self, x: Tensor) -> Tensor:
        weighted: Tensor = _unit(x) * self.weight
        return weighted


def _unit(x: Tensor) -> Tensor:
    """Vectors along dimension 1, of no negative number, at length 1; 0 where they are 0."""
    least = torch.tensor(_LEAST)
    x = x / torch.maximum(x.amax(dim=1, keepdim=True), least)
    return x / torch.maximum(x.norm(dim=1, keepdim=True), least)
