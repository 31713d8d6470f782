"""Trace networks to ONNX graphs of basic operators of opset 13, which `atc` compiles.

Batch norms are folded. Vectors are divided by their largest element before their norm is computed, because
`atc` computes in fp16 by default, where the squares would overflow.
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
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from wav2lip_npu.export.manifest import ATTENTION, DYNAMIC, FEATURE, INPUTS, OPSET, OUTPUTS, import_onnx
from wav2lip_npu.export.options import DETECTORS
from wav2lip_npu.faces.s3fd import S3FD_MEANS
from wav2lip_npu.models.networks import SyncNet, Wav2Lip, fold_norms
from wav2lip_npu.models.retinaface import RetinaFace

_SMALLEST = 1e-4
_HALF = "_half"
DYNAMIC_SIZE = (96, 128)
"""Height and width of the images for tracing a graph that accepts any size."""


def trace_graph(
    network: str, module: nn.Module, batch: int | None = None, size: tuple[int, int] | None = None
) -> Any:
    """Return the graph (`onnx.ModelProto`) of a network in eval mode, float32.

    `batch` and, for a detector, `size` (height, width) fix the input shape; `None` leaves it dynamic.
    """
    onnx = import_onnx()
    traced = _traceable(network, copy.deepcopy(module))
    features = _feature_names(module) if isinstance(module, Wav2Lip) else []
    names = [*INPUTS[network], *OUTPUTS[network], *features]
    shapes = input_shapes(network, size or image_size(module))
    examples = tuple(torch.zeros(batch or 2, *shape) for shape in shapes.values())
    free_size = network in DETECTORS and not size
    axes = {name: _dynamic_axes(name, batch is None, free_size) for name in names}
    with torch.inference_mode(), warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # deprecated in favour of an exporter for opset 18 and later
        torch.onnx.export(
            traced,
            examples,
            os.path.join(folder, "traced.onnx"),
            input_names=list(INPUTS[network]),
            output_names=names[len(INPUTS[network]) :],
            dynamic_axes=axes,
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


def image_size(module: nn.Module) -> tuple[int, int]:
    """Return height and width of the images that a network takes; for a detector, those of an example."""
    return (module.face_size, module.face_size) if isinstance(module, Wav2Lip) else DYNAMIC_SIZE


def input_shapes(network: str, size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the inputs of a network for images of a size (height, width), without batch."""
    return {
        name: (channels, *(size if isinstance(rest[0], str) else rest))
        for name, (channels, *rest) in INPUTS[network].items()
    }


def _feature_names(network: Wav2Lip) -> list[str]:
    levels = range(len(network.face_encoder_blocks))
    kinds = [FEATURE, ATTENTION] if network.plan.attention else [FEATURE]
    return [f"{kind}{level}" for kind in kinds for level in levels]


def _dynamic_axes(name: str, batch: bool, size: bool) -> dict[int, str]:
    """Return the names of the dynamic dimensions of an input or output."""
    level = "" if name in INPUTS["s3fd"] else name[-2:]
    axes = {0: DYNAMIC} if batch else {}
    return axes | ({2: f"height{level}", 3: f"width{level}"} if size else {})


def convert_to_fp16(model: Any) -> None:
    """Convert a graph to float16 in place. Its inputs, outputs and scales of sizes stay float32."""
    onnx = import_onnx()
    graph, cast = model.graph, onnx.helper.make_node
    float_, half = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
    scales = {name for node in graph.node if node.op_type == "Resize" for name in node.input[1:]}
    initializers = [tensor for tensor in graph.initializer if tensor.name not in scales]
    nodes = [node for node in graph.node if node.output[0] not in scales]
    constants = [item.t for node in nodes for item in node.attribute if item.HasField("t")]
    for tensor in [*initializers, *constants]:
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
    """Return the network with folded norms, wrapped to return all outputs of the graph."""
    fold_norms(module)
    wrap: dict[str, Callable[[Any], nn.Module]] = {
        "generator": _Generator,
        "syncnet": _SyncNet,
        "s3fd": _S3fd,
        "retinaface": _RetinaFace,
    }
    return wrap[network](module).eval()


class _Generator(nn.Module):
    """Returns the face and the face features at which an engine splits the graph."""

    def __init__(self, network: Wav2Lip) -> None:
        super().__init__()
        self.network = network
        network.unit = _unit  # type: ignore[method-assign]

    def forward(self, mels: Tensor, faces: Tensor) -> tuple[Tensor, ...]:
        features = self.network.encode_faces(faces)
        return self.network.decode(mels, features), *features


class _SyncNet(nn.Module):
    """Returns the unit embeddings of mels and mouths."""

    def __init__(self, network: SyncNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, mels: Tensor, mouths: Tensor) -> tuple[Tensor, Tensor]:
        mel_embedding = self.network.audio_encoder(mels).flatten(1)
        mouth_embedding = self.network.face_encoder(mouths).flatten(1)
        return _unit(mel_embedding), _unit(mouth_embedding)


class _S3fd(nn.Module):
    """S3FD with BGR images in 0 to 255 as input."""

    means: Tensor

    def __init__(self, network: Any) -> None:
        super().__init__()
        for name in ("conv3_3_norm", "conv4_3_norm", "conv5_3_norm"):
            setattr(network, name, _WeightedNorm(getattr(network, name).weight))
        self.network = network
        self.register_buffer("means", torch.tensor(S3FD_MEANS).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        with _PlainChunks():
            return tuple(self.network(images - self.means))


class _RetinaFace(nn.Module):
    """RetinaFace for images whose sides are multiples of 32."""

    def __init__(self, network: RetinaFace) -> None:
        super().__init__()
        self.network = network
        network.enlarged = _doubled  # type: ignore[method-assign]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.network(images))


def _doubled(coarse: Tensor, fine: Tensor) -> Tensor:
    """Return `coarse` at twice its size: without the arithmetic on shapes of `RetinaFace.enlarged`."""
    return functional.interpolate(coarse, scale_factor=2.0)


class _PlainChunks(TorchFunctionMode):
    """Replaces `torch.chunk`, whose trace has arithmetic on shapes, with a split into single channels."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), more: dict[str, Any] | None = None
    ) -> Any:
        if function is torch.chunk:
            tensor, _, dimension = args
            return tensor.split(1, dimension)
        return function(*args, **(more or {}))


class _WeightedNorm(nn.Module):
    """S3FD's norm over channels, with a weight per channel."""

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach().view(1, -1, 1, 1).clone())

    def forward(self, x: Tensor) -> Tensor:
        weighted: Tensor = _unit(x) * self.weight
        return weighted


def _unit(x: Tensor) -> Tensor:
    """Normalize non-negative vectors along dimension 1 to length 1; zero vectors stay 0."""
    smallest = torch.tensor(_SMALLEST)
    x = x / torch.maximum(x.amax(dim=1, keepdim=True), smallest)
    return x / torch.maximum(x.norm(dim=1, keepdim=True), smallest)
