"""Load the networks of a dub."""

from __future__ import annotations

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch

from wav2lip_npu.data.clip_layout import FACE_SIZE
from wav2lip_npu.devices import device as devices
from wav2lip_npu.devices import number_formats
from wav2lip_npu.devices.compilation import CompileOption
from wav2lip_npu.dubbing.enhance import Enhancer
from wav2lip_npu.dubbing.generator_runner import EncodedFace as EncodedFace
from wav2lip_npu.dubbing.generator_runner import GeneratorRunner as GeneratorRunner
from wav2lip_npu.errors import UsageError
from wav2lip_npu.export.engines import FILE_BATCH, OmEngine, OnnxEngine, load_engine
from wav2lip_npu.export.options import TORCH, engine_of
from wav2lip_npu.faces.detection import Detector
from wav2lip_npu.faces.detectors import load_detector
from wav2lip_npu.models import checkpoint
from wav2lip_npu.models.bundled import STARTER
from wav2lip_npu.models.generator import Wav2Lip
from wav2lip_npu.models.placement import place
from wav2lip_npu.models.plan_choice import AS_TRAINED, AudioRefineOption, Design
from wav2lip_npu.options import expect_text, path_text
from wav2lip_npu.parallel.thread_counts import one_core_each

if TYPE_CHECKING:
    from wav2lip_npu.batch.face_cache import FaceCache
    from wav2lip_npu.live.opening import LiveDevice
    from wav2lip_npu.live.options import StreamOptions
    from wav2lip_npu.live.stream import FaceStream
    from wav2lip_npu.media.container import VideoInfo


@dataclass(frozen=True)
class Models:
    """The networks of a dub, loaded once for any number of videos by `load_models`.

    Thread-safe: concurrent dubs with the same models write the same outputs as consecutive ones.
    """

    generator: Wav2Lip | OnnxEngine | OmEngine
    detector: Detector
    device: torch.device
    precision: torch.dtype
    weights: Path
    """File of the generator's weights."""
    digest: str
    """First 12 hex digits of the SHA-256 of the weights; for an exported file, of the original weights."""
    mel_shift: float = 0.0
    """Frames of 1/25 s by which the audio was shifted in training."""
    enhancer: Enhancer | None = None
    """Restores the generated mouths of every dub without `enhance`."""
    design: Design = AS_TRAINED
    """The requested design of the generator."""
    precision_option: str = "auto"
    """Value of the option `precision` of `load_models`."""

    @property
    def engine(self) -> str:
        """Runtime of the generator: torch, onnx, or om with its NPU."""
        return TORCH if isinstance(self.generator, Wav2Lip) else self.generator.name

    @property
    def face_size(self) -> int:
        """Rows and columns of the faces that the generator takes."""
        return self.generator.face_size

    @property
    def batch(self) -> int:
        """Faces per batch: fewer large ones; for an exported file, the size that it accepts."""
        if isinstance(self.generator, Wav2Lip):
            usual = devices.BACKENDS[self.device.type].batch
            return max(1, usual * FACE_SIZE**2 // self.face_size**2)
        return self.generator.manifest.batch or FILE_BATCH

    @functools.cached_property
    def live(self) -> LiveDevice:
        """What the live streams of these models share."""
        from wav2lip_npu.live.opening import LiveDevice

        return LiveDevice(self)

    def stream(
        self,
        face: str | os.PathLike[str] | VideoInfo,
        *,
        options: StreamOptions | None = None,
        cache: FaceCache | None = None,
        **values: Any,
    ) -> FaceStream:
        """Open a live stream: audio chunks in, speaking frames out, see `FaceStream`.

        The face is tracked first, which takes some seconds for a video; streams of the same face with the
        same options share the result.

        Args:
            face: Video or image with the face.
            options: Options of the stream. Default: `StreamOptions()`.
            cache: Cache of the faces found in videos. Default: none.
            **values: Options by name, at any nesting. They override `options`.

        Returns:
            The stream. Close it, or use it in a `with` block.

        Raises:
            MediaError: The face video cannot be read.
            FaceError: It has no face.
            UsageError: An option is unknown or out of range.
            BusyError: The device holds as many streams as it can.

        Example:
            >>> from wav2lip_npu import load_models
            >>> with load_models("starter").stream("talk.mp4") as stream:
            ...     stream.push_audio(pcm, 16_000)
            ...     stream.finish()
            ...     images = [frame.image for frame in stream]

        """
        from wav2lip_npu.live.opening import open_stream

        return open_stream(self, face, options=options, cache=cache, values=values)


def expect_models(models: Any) -> Models:
    """Check that the argument `models`, or the result of a function, is `Models`, and return it.

    Raises:
        UsageError: It is something else.

    """
    if isinstance(models, Models):
        return models
    text = " ".join(repr(models).split())
    raise UsageError(f"models {text:.80} is invalid. Pass models=load_models(...).")


def load_models(
    checkpoint_path: str | os.PathLike[str] = STARTER,
    *,
    detector: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    engine: str = "auto",
    enhancer: Enhancer | None = None,
    face_size: int | None = None,
    audio_refine: AudioRefineOption = "auto",
    compile: CompileOption = "off",  # noqa: A002 named like the flag
) -> Models:
    """Load the generator and the face detector onto a device, for any number of dubs and threads.

    Args:
        checkpoint_path: Weights of a Wav2Lip generator, .pth, .pt or .safetensors; an exported .onnx or .om
            file; or "starter", the small bundled network.
        detector: "retinaface", "hog", "s3fd", or "auto": retinaface.
        device: "cpu", "cuda", "cuda:1", "npu", "npu:1", or "auto": the first available of npu, cuda, cpu.
        precision: Number format of the generator: "fp32", "bf16", "fp16", "fp32_strict", which turns off
            the reduced precision that an accelerator uses for fp32, or "auto": bf16 on a CPU with AMX or
            AVX-512 BF16, else fp32.
        engine: "torch", "onnx", "om", or "auto": chosen by the file type.
        enhancer: Restores the generated mouths; for files in ONNX format see the option `enhance` of `dub`.
        face_size: Size of the faces in pixels, for weights that fit several. `None`: as published.
        audio_refine: See docs/hd.md: "off", "plain", "normalized", or "auto": measured in the weights.
        compile: "on" compiles the generator with `torch.compile` during the first frames, for the given
            device and batch size. An NPU needs torchair, a CPU a C++ compiler.

    Returns:
        The loaded networks, for `dub(..., models=...)`, `dub_many` and `run_jobs`.

    Raises:
        CheckpointError: The weights are missing, damaged or for another network.
        FaceError: The detector is unknown, or its weights are missing.
        DeviceError: The device is unknown or does not exist.
        UsageError: The options conflict.

    Example:
        >>> from wav2lip_npu import dub, load_models
        >>> models = load_models(device="cpu")
        >>> for name in ("monday", "tuesday"):
        ...     dub("talk.mp4", f"{name}.wav", f"{name}.mp4", models=models)

    """
    expect_text(detector=detector, device=device, precision=precision, engine=engine, compile=compile)
    if compile not in get_args(CompileOption):
        raise UsageError(f"unknown compile {compile!r}. Pass on or off.")
    checkpoint_path = path_text(checkpoint_path, "checkpoint_path")
    engine = engine_of(checkpoint_path, engine)
    design = Design(face_size, audio_refine)
    if engine != TORCH:
        if design != AS_TRAINED or compile == "on":
            raise UsageError(
                f"{checkpoint_path} has a fixed design. Remove --face_size, --audio_refine and --compile."
            )
        exported = _load_exported(engine, Path(checkpoint_path), detector, device, precision)
        return replace(exported, enhancer=enhancer)
    torch_device = devices.resolve(device)
    option, precision = precision, number_formats.generator_precision(precision, torch_device)
    dtype = number_formats.dtype_of(precision)
    devices.activate(torch_device)
    if precision == "fp32_strict":
        number_formats.full_float32(torch_device)
    # Several threads of PyTorch for each small operation take four times as long here.
    with one_core_each(torch_device) as prepare, ThreadPoolExecutor(2, initializer=prepare) as pool:
        prepare()
        faces = pool.submit(load_detector, detector, str(torch_device))
        loaded = checkpoint.load(checkpoint_path, "generator", design)
        digest = pool.submit(loaded.digest)
        network = loaded.network()
        assert isinstance(network, Wav2Lip)
        place(network, torch_device, dtype, is_compiled=compile == "on")
        return Models(
            network,
            faces.result(),
            torch_device,
            dtype,
            loaded.source,
            digest.result(),
            loaded.mel_shift,
            enhancer,
            design,
            option,
        )


def _load_exported(engine: str, path: Path, detector: str, device: str, precision: str) -> Models:
    """Load an exported generator into its engine; everything else runs on the CPU."""
    if precision not in ("auto", "fp32"):
        raise UsageError(f"{path} keeps the precision it was exported with. Remove --precision {precision}.")
    generator = load_engine(engine, path, device)
    host = devices.resolve(devices.HOST)
    devices.activate(host)
    manifest = generator.manifest
    return Models(
        generator,
        load_detector(detector, str(host)),
        host,
        torch.float32,
        path,
        manifest.sha256[:12],
        manifest.mel_shift or 0.0,
    )
