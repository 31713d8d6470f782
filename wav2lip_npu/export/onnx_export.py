"""Export networks as .onnx files with a manifest. A file is written only if it agrees with PyTorch."""

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
from wav2lip_npu.errors import ExportError, UsageError
from wav2lip_npu.export.calibration import BUNDLED_CLIP, read_samples
from wav2lip_npu.export.engines import FILE_BATCH, Arrays, Session, make_session
from wav2lip_npu.export.int8_quality import (
    MAX_CONFIDENCE_CHANGE,
    MAX_GREY_LEVELS,
    RANGE_STEP,
    Int8Quality,
    measure_quality,
)
from wav2lip_npu.export.manifest import KINDS, OPSET, OUTPUTS, Manifest, import_onnx, shapes_of
from wav2lip_npu.export.onnx_graph import convert_to_fp16, image_size, input_shapes, trace_graph
from wav2lip_npu.export.onnx_int8 import quantised
from wav2lip_npu.export.options import (
    DETECTORS,
    INT8,
    ExportOptions,
    Network,
    Precision,
    calibration_inputs,
)
from wav2lip_npu.faces import retinaface
from wav2lip_npu.faces.detectors import detector_inputs
from wav2lip_npu.faces.s3fd import S3FD_MEANS, load_s3fd, s3fd_path
from wav2lip_npu.mel import DEFAULT_MEL
from wav2lip_npu.models import checkpoint
from wav2lip_npu.models.bundled import STARTER, weights_inputs
from wav2lip_npu.models.numerics import Difference, compare_runs
from wav2lip_npu.models.plan_choice import AS_TRAINED, AudioRefineOption, Design
from wav2lip_npu.models.weight_formats import MORE
from wav2lip_npu.options import path_text
from wav2lip_npu.storage.hashing import sha256_of
from wav2lip_npu.storage.outputs import OutputPath, check_outputs, write_output

TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2}
"""Maximum difference from PyTorch in float32, by precision, relative to the largest expected output if that
is above 1."""


@dataclass(frozen=True)
class LoadedNetwork:
    """A network to export."""

    network: str
    """`generator`, `syncnet`, `s3fd` or `retinaface`."""
    module: nn.Module
    """In eval mode, float32, on the CPU."""
    source: Path
    """Weights file."""
    sha256: str
    """SHA-256 of the weights file."""
    mel_shift: float | None
    """Mel shift of the checkpoint; `None` if it has none."""


@dataclass(frozen=True)
class ExportedFile:
    """An exported .onnx file."""

    path: Path
    manifest: Manifest
    """Manifest in the metadata of the file."""
    difference: float
    """Largest difference from PyTorch, relative as in `TOLERANCES`; of int8, the mean one in the mouth."""
    quality: Int8Quality | None = None
    """Figures of an int8 export."""


def export_onnx(
    checkpoint_path: str | os.PathLike[str],
    outfile: str | os.PathLike[str],
    *,
    network: Network = "generator",
    batch: int | None = None,
    precision: Precision = "fp32",
    size: tuple[int, int] | None = None,
    calibration_face: str | os.PathLike[str] | None = None,
    calibration_audio: str | os.PathLike[str] | None = None,
    face_size: int | None = None,
    audio_refine: AudioRefineOption = "auto",
) -> ExportedFile:
    """Export a network as an ONNX file (opset 13, batch norms folded, one file without external data).

    The file is run by onnxruntime and compared with PyTorch in float32 before it is written. `dub` and
    `batch` accept the file of a generator as `checkpoint_path`. Requires `pip install onnx onnxruntime`.

    Example:
        >>> import wav2lip_npu
        >>> exported = wav2lip_npu.export_onnx("starter", "generator.onnx")
        >>> exported.manifest.inputs
        {'mel': ['batch', 1, 80, 16], 'face': ['batch', 6, 96, 96]}

    Args:
        checkpoint_path: Weights: .pth, .pt or .safetensors. `starter` is the bundled network; for a
            detector, its installed weights.
        outfile: File to write.
        network: `generator`, `syncnet`, `s3fd` or `retinaface`.
        batch: Batch size, 1 to 256. `None` exports a file that accepts any batch size.
        precision: Number format inside the file, `fp32`, `fp16`, or `int8` for a generator that is fast on
            CPUs with VNNI or AMX. Inputs and outputs are float32.
        size: Height and width of the images for a detector, required with `batch`. `None` exports a file
            that accepts any size. Sides for RetinaFace are multiples of 32.
        calibration_face: With `int8`, face video or image by which the ranges are set and the file is
            compared. `None`: a bundled clip.
        calibration_audio: Its audio file. `None`: the audio of `calibration_face`.
        face_size: See `load_models`.
        audio_refine: See `load_models`.

    Returns:
        The path, the manifest and the largest difference from PyTorch, relative to the largest expected
        output if that is above 1: at most 1e-4, or 2e-2 with `fp16`. With `int8`, `quality` compares the
        mouths of the clip and their sync.

    Raises:
        UsageError: An option is out of range or conflicts with another one, or onnx is not installed.
        CheckpointError: The weights are missing, damaged, or for another network.
        FaceError: The weights of the detector are missing or damaged.
        OutputError: The output cannot be written, or is also an input.
        ExportError: The exported network differs from PyTorch. No file is written.

    """
    texts = {"calibration_face": calibration_face, "calibration_audio": calibration_audio}
    options = ExportOptions(
        network=network,
        precision=precision,
        batch=batch,
        size=size,
        **{name: None if path is None else path_text(path, name) for name, path in texts.items()},
    )
    checkpoint_path = path_text(checkpoint_path, "checkpoint_path")
    outfile = path_text(outfile, "outfile")
    is_detector = network in DETECTORS and checkpoint_path == STARTER
    weights = [] if is_detector else weights_inputs("checkpoint_path", checkpoint_path, network)
    check_outputs(
        [OutputPath("outfile", outfile)], [*weights, *detector_inputs(), *calibration_inputs(options)]
    )
    design = Design(face_size, audio_refine)
    return write_onnx(load_network(network, checkpoint_path, design), outfile, options)


def load_network(
    network: str, path: str | os.PathLike[str] = STARTER, design: Design = AS_TRAINED
) -> LoadedNetwork:
    """Load a network to export; for a detector, `starter` is its installed weights.

    Raises `CheckpointError` or `FaceError`.
    """
    if network == "s3fd":
        source = s3fd_path() if os.fspath(path) == STARTER else Path(path)
        return LoadedNetwork(network, load_s3fd(source), source, sha256_of(source), None)
    if network == "retinaface":
        if os.fspath(path) != STARTER:
            raise UsageError(
                f"--checkpoint_path {path}: only the installed weights of retinaface can be exported. "
                f"Pass {STARTER}."
            )
        source = retinaface.weights_path()
        return LoadedNetwork(network, retinaface.load_retinaface(), source, sha256_of(source), None)
    loaded = checkpoint.load(path, KINDS[network], design)
    shift = loaded.mel_shift if "mel_shift" in loaded.more else None
    return LoadedNetwork(network, loaded.network(), loaded.source, sha256_of(loaded.source), shift)


def write_onnx(loaded: LoadedNetwork, path: str | os.PathLike[str], options: ExportOptions) -> ExportedFile:
    """Write an .onnx file. Raises `ExportError` without writing the file if it differs from PyTorch."""
    onnx = import_onnx()
    graph = trace_graph(loaded.network, loaded.module, options.batch, options.size)
    samples, size = None, options.batch or FILE_BATCH
    if options.precision == "fp16":
        convert_to_fp16(graph)
    elif options.precision == INT8:
        face = options.calibration_face or BUNDLED_CLIP
        samples = read_samples(
            face, options.calibration_audio or face, loaded.mel_shift or 0.0, image_size(loaded.module)[0]
        )
        graph = quantised(graph, samples.batches(size, RANGE_STEP))
    manifest = Manifest(
        network=loaded.network,
        precision=options.precision,
        batch=options.batch,
        opset=OPSET,
        inputs=shapes_of(graph.graph.input),
        outputs=shapes_of(graph.graph.output),
        mel=None if loaded.network in DETECTORS else asdict(DEFAULT_MEL),
        mel_shift=loaded.mel_shift,
        checkpoint=loaded.source.name,
        sha256=loaded.sha256,
        version=__version__,
    )
    graph.producer_name, graph.producer_version = "wav2lip-npu", __version__
    onnx.helper.set_model_props(graph, {MORE: manifest.as_json()})
    onnx.checker.check_model(graph, full_check=True)
    content: bytes = graph.SerializeToString(deterministic=True)
    name = os.path.basename(path)
    if samples is not None:
        expected, measured = (lambda arrays, run=run: run(arrays)[0] for run in _runs(loaded, content))
        quality = measure_quality(samples, size, expected, measured)
        if not quality.is_good:
            raise ExportError(
                f"{name} differs from PyTorch by {quality}, and was not written: at most {MAX_GREY_LEVELS:g} "
                f"grey levels and {MAX_CONFIDENCE_CHANGE:g} of confidence at the same offset are accepted. "
                "Leave out --int8, or pass a clip of the face that you will dub as --calibration_face."
            )
        write_output(path, content)
        return ExportedFile(Path(path), manifest, quality.grey_levels / 255, quality)
    differences = _compare_with_torch(loaded, content, manifest, options.size or image_size(loaded.module))
    worst = max(differences, key=lambda difference: difference.used)
    tolerance = TOLERANCES[options.precision]
    difference = worst.used * tolerance
    if not worst.is_small:
        fix = "Pass --precision fp32" if options.precision == "fp16" else "Try another onnxruntime version"
        raise ExportError(
            f"{name} differs from PyTorch by {difference:.1e}, more than {tolerance:g}, "
            f"and was not written. {fix}."
        )
    write_output(path, content)
    return ExportedFile(Path(path), manifest, difference)


def example_inputs(network: str, batch: int, size: tuple[int, int]) -> Iterator[Arrays]:
    """Yield two inputs by name: noise, then smooth images with silence in half of the mels.

    `size` is height and width of the images of a detector, or of the faces of a generator.
    """
    random = np.random.default_rng(0)
    for smooth in (False, True):
        arrays = {}
        for name, shape in input_shapes(network, size).items():
            if name == "mel":
                values = random.uniform(-4, 4, (batch, *shape))
                values[: batch // 2 if smooth else 0] = -4
            else:
                values = _images(random, (batch, *shape), smooth)
                if name == "face" and smooth:
                    values[:, :3, shape[1] // 2 :] = 0
            arrays[name] = (values * 255 if name == "image" else values).astype(np.float32)
        yield arrays


def _images(random: np.random.Generator, shape: tuple[int, ...], smooth: bool) -> NDArray[Any]:
    """Return values [B, C, H, W] in [0, 1]."""
    if not smooth:
        return random.uniform(0, 1, shape)
    small = torch.from_numpy(random.uniform(0, 1, (*shape[:2], 5, 6)))
    return functional.interpolate(small, shape[2:], mode="bicubic").clamp(0, 1).numpy()


@torch.inference_mode()
def run_module(network: str, module: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Run a PyTorch network with the inputs and outputs of its exported graph."""
    if network == "s3fd":
        inputs = [inputs[0] - torch.tensor(S3FD_MEANS, device=inputs[0].device).view(1, 3, 1, 1)]
    outputs = module(*inputs)
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def named_outputs(network: str, run: Session) -> Callable[[Arrays], dict[str, Tensor]]:
    """Return `run` with its outputs as tensors by name, for `compare_runs`."""

    def run_named(arrays: Arrays) -> dict[str, Tensor]:
        return dict(zip(OUTPUTS[network], map(torch.from_numpy, run(arrays)), strict=True))

    return run_named


def _compare_with_torch(
    loaded: LoadedNetwork, content: bytes, manifest: Manifest, size: tuple[int, int]
) -> list[Difference]:
    """Compare an exported graph with PyTorch on the example inputs."""
    batches = [manifest.batch] if manifest.batch else [1, 3]
    inputs = (arrays for batch in batches for arrays in example_inputs(loaded.network, batch, size))
    expected, measured = (named_outputs(loaded.network, run) for run in _runs(loaded, content))
    return compare_runs(inputs, expected, measured, TOLERANCES[manifest.precision])


def _runs(loaded: LoadedNetwork, content: bytes) -> tuple[Session, Session]:
    """Return the network in PyTorch and its exported graph, each as a function of its inputs by name."""

    def run_torch(arrays: Arrays) -> list[NDArray[Any]]:
        inputs = [torch.from_numpy(array) for array in arrays.values()]
        return [output.numpy() for output in run_module(loaded.network, loaded.module, inputs)]

    return run_torch, make_session(content)
