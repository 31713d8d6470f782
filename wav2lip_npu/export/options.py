"""Options of exports: networks, number formats, batch and image sizes, file names, engines."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal, get_args

from wav2lip_npu.errors import UsageError
from wav2lip_npu.models.checkpoint import published_kind
from wav2lip_npu.options import check_types
from wav2lip_npu.storage.outputs import InputPath

Network = Literal["generator", "syncnet", "s3fd", "retinaface"]
Format = Literal["onnx", "om"]
Engine = Literal["auto", "torch", "onnx", "om"]
Precision = Literal["fp32", "fp16", "int8"]

TORCH, ONNX, OM = "torch", "onnx", "om"
INT8 = "int8"
NETWORKS: tuple[Network, ...] = get_args(Network)
ENGINES: tuple[Engine, ...] = get_args(Engine)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
MAX_BATCH = 256
DETECTORS = ("s3fd", "retinaface")
"""Networks that take images of any size, and whose weights are installed."""
_SIZES = range(32, 4097)
_STEP = 32
"""Image sides of RetinaFace are multiples of this: each of its levels has twice the size of the next."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of one exported file.

    Raises:
        UsageError: An option is out of range or conflicts with another one.

    """

    network: Network = "generator"
    precision: Precision = "fp32"
    """Number format inside the file. Inputs and outputs are float32."""
    batch: int | None = None
    """Batch size; `None` for a file that accepts any."""
    size: tuple[int, int] | None = None
    """Height and width of the images for a detector; `None` for any."""
    calibration_face: str | None = None
    """Face video or image for int8; `None` for the bundled clip."""
    calibration_audio: str | None = None
    """Its audio file; `None` for the audio of the face video."""

    def __post_init__(self) -> None:
        check_types(self)
        if self.batch is not None and not 1 <= self.batch <= MAX_BATCH:
            raise UsageError(f"--batch {self.batch} is out of range. Pass 1 to {MAX_BATCH}, 0 for any size.")
        if self.precision == INT8 and self.network != "generator":
            raise UsageError(f"--network {self.network} has no int8 export. Pass --network generator.")
        if self.precision != INT8 and (self.calibration_face or self.calibration_audio):
            raise UsageError("--calibration_face and --calibration_audio are for int8. Pass --int8.")
        if self.calibration_audio and not self.calibration_face:
            raise UsageError("--calibration_audio needs a face. Pass --calibration_face talk.mp4.")
        is_detector = self.network in DETECTORS
        if self.size is not None and not (is_detector and all(n in _SIZES for n in self.size)):
            raise UsageError(
                f"--size {self.size[0]} {self.size[1]}: pass height and width of the images for --network "
                f"{' or '.join(DETECTORS)}, {_SIZES[0]} to {_SIZES[-1]}."
            )
        if self.network == "retinaface" and self.size is not None and any(n % _STEP for n in self.size):
            raise UsageError(
                f"--size {self.size[0]} {self.size[1]}: pass multiples of {_STEP} for --network retinaface."
            )
        if is_detector and self.batch is not None and self.size is None:
            raise UsageError(
                f"--network {self.network} with --batch needs an image size. Pass --size 320 576."
            )


def calibration_inputs(options: ExportOptions) -> list[InputPath]:
    """Return the calibration files as inputs for `check_outputs`."""
    names = ("calibration_face", "calibration_audio")
    return [InputPath(f"--{name}", getattr(options, name)) for name in names if getattr(options, name)]


def network_named(name: str) -> str:
    """Return the network with this name in an option or file; `expert` is the former name of `syncnet`."""
    return "syncnet" if name == published_kind("syncnet") else name


def file_name(network: str, options: ExportOptions) -> str:
    """Return a file name such as `generator_b8_fp16.onnx`."""
    parts = [
        network,
        f"b{options.batch}" if options.batch else "",
        "{}x{}".format(*options.size) if options.size else "",
        options.precision if options.precision != "fp32" else "",
    ]
    return "_".join(filter(None, parts)) + f".{ONNX}"


def is_exported(path: str | os.PathLike[str]) -> bool:
    """Return whether a path has the suffix of an exported file."""
    return _suffix(path) in (ONNX, OM)


def engine_of(path: str | os.PathLike[str], engine: str = "auto") -> str:
    """Return the engine for a weights file: `torch`, `onnx` or `om`.

    Raises `UsageError` if `engine` is unknown or cannot run such a file.
    """
    if engine not in ENGINES:
        raise UsageError(f"unknown engine {engine!r}. Pass --engine {', '.join(ENGINES)}.")
    fitting = _suffix(path) if is_exported(path) else TORCH
    if engine in ("auto", fitting):
        return fitting
    if engine == TORCH:
        raise UsageError(f"{path} is an exported file. Pass its weights, or remove --engine torch.")
    raise UsageError(
        f"--engine {engine} runs an exported .{engine} file, not {path}. "
        f"Run wav2lip-npu export --format {engine} and pass its output as --checkpoint_path."
    )


def _suffix(path: str | os.PathLike[str]) -> str:
    return os.path.splitext(os.fspath(path))[1].lower().lstrip(".")
