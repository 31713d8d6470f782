"""Exports: files of networks that tell of themselves, each compared with PyTorch before it is kept."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from wav2lip_npu import __version__
from wav2lip_npu.errors import ExportError
from wav2lip_npu.export.engines import Arrays, Session, session_of
from wav2lip_npu.export.manifest import INPUTS, KINDS, OPSET, OUTPUTS, About, beside, onnx_library, shapes_of
from wav2lip_npu.export.onnx_graph import DYNAMIC_SIZE, graph_of, halve
from wav2lip_npu.faces.s3fd import S3FD_MEANS, load_s3fd, s3fd_path
from wav2lip_npu.mel import DEFAULT_MEL
from wav2lip_npu.models import checkpoint
from wav2lip_npu.models.bundled import STARTER
from wav2lip_npu.models.numerics import Difference, compare_runs
from wav2lip_npu.models.weight_formats import MORE
from wav2lip_npu.storage.atomic import replacing
from wav2lip_npu.storage.hashing import sha256_of

TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2}
"""Largest difference from PyTorch in float32 of a file that is kept, by precision, in units of the largest
expected output where that is above 1."""


@dataclass(frozen=True)
class Weights:
    """A network that is to be exported, in eval mode, float32."""

    network: str
    module: nn.Module
    source: Path
    sha256: str
    mel_shift: float | None


@dataclass(frozen=True)
class Made:
    """A file that was written."""

    path: Path
    about: About
    difference: float
    """Largest difference from PyTorch, in the units of `TOLERANCES`."""


def load_weights(network: str, path: str | os.PathLike[str] = STARTER) -> Weights:
    """The weights of a network; for S3FD `starter` is where its detector looks.

    Raises `CheckpointError` or `FaceError`.
    """
    if network == "s3fd":
        source = s3fd_path() if os.fspath(path) == STARTER else Path(path)
        return Weights(network, load_s3fd(source), source, sha256_of(source), None)
    found = checkpoint.load(path, KINDS[network])
    shift = found.mel_shift if "mel_shift" in found.more else None
    return Weights(network, found.network(), found.source, sha256_of(found.source), shift)


def export(
    weights: Weights,
    path: str | os.PathLike[str],
    *,
    batch: int | None = None,
    precision: str = "fp32",
    size: tuple[int, int] | None = None,
) -> Made:
    """Write an .onnx file for batches of `batch`, or of any size, and for S3FD of pictures of `size`, or any.

    Raises `ExportError` when it does not compute what PyTorch does; then nothing is written.
    """
    onnx = onnx_library()
    graph = graph_of(weights.network, weights.module, batch, size)
    if precision == "fp16":
        halve(graph)
    about = About(
        network=weights.network,
        precision=precision,
        batch=batch,
        opset=OPSET,
        inputs=shapes_of(graph.graph.input),
        outputs=shapes_of(graph.graph.output),
        mel=None if weights.network == "s3fd" else asdict(DEFAULT_MEL),
        mel_shift=weights.mel_shift,
        checkpoint=weights.source.name,
        sha256=weights.sha256,
        version=__version__,
    )
    graph.producer_name, graph.producer_version = "wav2lip-npu", __version__
    onnx.helper.set_model_props(graph, {MORE: about.as_json()})
    onnx.checker.check_model(graph, full_check=True)
    content: bytes = graph.SerializeToString(deterministic=True)
    worst = max(
        _compare_with_torch(weights, content, about, size or DYNAMIC_SIZE), key=lambda each: each.used
    )
    difference = worst.used * TOLERANCES[precision]
    if not worst.is_small:
        way_out = "pass --precision fp32" if precision == "fp16" else "try another version of onnxruntime"
        raise ExportError(
            f"{os.path.basename(path)} differs from PyTorch by {difference:.1e}, more than "
            f"{TOLERANCES[precision]:g}, and was not kept. Please {way_out}."
        )
    with replacing(path) as part:
        part.write_bytes(content)
    return Made(Path(path), about, difference)


def write_beside(made: Made) -> None:
    """Lay the description beside the .om file that is to be compiled."""
    with replacing(beside(made.path)) as part:
        part.write_text(made.about.as_json() + "\n", encoding="ascii")


def compile_command(made: Made, chip: str) -> list[str]:
    """How the vendor's compiler makes an .om file of the same name for a chip such as `Ascend310P3`."""
    shapes = (f"{name}:{','.join(map(str, shape))}" for name, shape in made.about.inputs.items())
    # Its transposed convolution is documented for fp16 alone: float32 is kept where an operator can.
    mode = "force_fp16" if made.about.precision == "fp16" else "allow_fp32_to_fp16"
    return [
        "atc",
        "--framework=5",
        f"--model={made.path}",
        f"--output={made.path.with_suffix('')}",
        "--input_format=NCHW",
        f"--input_shape={';'.join(shapes)}",
        f"--soc_version={chip}",
        f"--precision_mode={mode}",
        "--output_type=FP32",
    ]


def examples(network: str, batch: int, size: tuple[int, int] = DYNAMIC_SIZE) -> Iterator[Arrays]:
    """Inputs of a network: noise, then as in use, smooth pictures with silence among the sounds."""
    random = np.random.default_rng(0)
    for smooth in (False, True):
        arrays = {}
        for name, (channels, *rest) in INPUTS[network].items():
            if name == "mel":
                values = random.uniform(-4, 4, (batch, channels, *rest))
                values[: batch // 2 if smooth else 0] = -4
            else:
                rows, columns = size if network == "s3fd" else rest
                values = _pictures(random, (batch, channels, rows, columns), smooth)
                if name == "face" and smooth:
                    values[:, :3, rows // 2 :] = 0
            arrays[name] = (values * 255 if name == "image" else values).astype(np.float32)
        yield arrays


def _pictures(random: np.random.Generator, shape: tuple[int, ...], smooth: bool) -> NDArray[Any]:
    """Values [B, C, H, W] in [0, 1]."""
    if not smooth:
        return random.uniform(0, 1, shape)
    small = torch.from_numpy(random.uniform(0, 1, (*shape[:2], 5, 6)))
    return functional.interpolate(small, shape[2:], mode="bicubic").clamp(0, 1).numpy()


@torch.inference_mode()
def outputs_of(network: str, module: nn.Module, given: Sequence[Tensor]) -> list[Tensor]:
    """What a network of PyTorch makes of the inputs of its export: the outputs of that."""
    if network == "s3fd":
        given = [given[0] - torch.tensor(S3FD_MEANS, device=given[0].device).view(1, 3, 1, 1)]
    made = module(*given)
    return [made] if isinstance(made, Tensor) else list(made)


def named_outputs(network: str, run: Session) -> Callable[[Arrays], dict[str, Tensor]]:
    """Return `run` with its outputs as tensors by name, for `compare_runs`."""

    def run_named(arrays: Arrays) -> dict[str, Tensor]:
        return dict(zip(OUTPUTS[network], map(torch.from_numpy, run(arrays)), strict=True))

    return run_named


def _compare_with_torch(
    weights: Weights, content: bytes, about: About, size: tuple[int, int]
) -> list[Difference]:
    """Compare an exported graph with PyTorch on noise and on inputs as in use."""

    def in_torch(arrays: Arrays) -> list[NDArray[Any]]:
        given = [torch.from_numpy(each) for each in arrays.values()]
        return [each.numpy() for each in outputs_of(about.network, weights.module, given)]

    batches = [about.batch] if about.batch else [1, 3]
    inputs = (arrays for batch in batches for arrays in examples(about.network, batch, size))
    expected, measured = (named_outputs(about.network, run) for run in (in_torch, session_of(content)))
    return compare_runs(inputs, expected, measured, TOLERANCES[about.precision])
