"""The `live` command: raw audio from a pipe in, speaking frames into a pipe out."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, BinaryIO, Literal

from wav2lip_npu import __version__
from wav2lip_npu.batch.face_cache import FaceCache
from wav2lip_npu.devices.device import describe
from wav2lip_npu.devices.number_formats import Precision
from wav2lip_npu.errors import MediaError, OutputError, UsageError
from wav2lip_npu.live.options import MAX_RATE, MIN_RATE, StreamOptions
from wav2lip_npu.models.bundled import ABOUT, STARTER, weights_inputs
from wav2lip_npu.options import group, resolved
from wav2lip_npu.storage.outputs import InputPath, OutputPath, check_outputs

if TYPE_CHECKING:
    from wav2lip_npu.live.outputs import FrameWriter
    from wav2lip_npu.live.stream import FaceStream

log = logging.getLogger(__name__)

STANDARD = "-"
_CHUNK = 1 << 14
"""Most bytes that are read at once."""
_BYTES = 2
"""Bytes of a sample."""
_MAX_CRF = 51
_MAX_CHANNELS = 64


@dataclass(frozen=True, kw_only=True)
class LiveCommand:
    """Show a face that speaks the audio of a pipe, while it arrives.

    speech | wav2lip-npu live --face talk.mp4 --audio - --rate 24000 --outfile - | ffplay -
    """

    checkpoint_path: str = STARTER
    """Generator: .pth, .pt, .safetensors, an exported .onnx or .om, or starter, the bundled weights."""
    face: str
    """Video or image with the face."""
    audio: str = STANDARD
    """Raw audio, 16-bit little-endian: a file or named pipe, or - for standard input."""
    rate: int = 16_000
    """Samples per second of the audio."""
    channels: int = 1
    """Channels of the audio, interleaved. They are mixed."""
    outfile: str = STANDARD
    """File or named pipe to write, or - for standard output. It is written as it is made."""
    to: Literal["mpegts", "raw"] = "mpegts"
    """mpegts: H.264 and AAC. raw: images as BGR bytes, without audio."""
    crf: int = 20
    """Constant rate factor of mpegts, 0 (lossless) to 51 (worst)."""
    live: Annotated[StreamOptions, group("stream")] = field(default_factory=StreamOptions)
    device: str = "auto"
    """cpu, cuda, cuda:1, npu, npu:1, or auto: the first available of npu, cuda, cpu."""
    precision: Precision = "fp32"
    """Number format of the generator. fp32_strict turns off an accelerator's reduced precision for fp32."""
    engine: Literal["auto", "torch", "onnx", "om"] = "auto"
    """Runtime of the generator. auto: chosen by the file type."""
    cache: str | None = None
    """Folder for the faces found in videos. None: wav2lip-npu/faces in the user's cache folder; off: none."""

    def __post_init__(self) -> None:
        """Check the values."""
        if not MIN_RATE <= self.rate <= MAX_RATE:
            raise UsageError(f"--rate {self.rate} is out of range. Pass {MIN_RATE} to {MAX_RATE}.")
        if not 1 <= self.channels <= _MAX_CHANNELS:
            raise UsageError(f"--channels {self.channels} is out of range. Pass 1 to {_MAX_CHANNELS}.")
        if not 0 <= self.crf <= _MAX_CRF:
            raise UsageError(f"--crf {self.crf} is out of range. Pass 0 (lossless) to {_MAX_CRF}.")

    def run(self) -> None:
        """Open the stream, and pass audio and frames on until one of the pipes ends."""
        log.info("wav2lip-npu %s", __version__)
        self._check_paths()
        with contextlib.suppress(BrokenPipeError), contextlib.ExitStack() as stack:
            audio = self._open_audio()  # the thread closes it, which may still read at the end
            stream = stack.enter_context(self._open_stream())
            output = stack.enter_context(self._open_output())
            pushing = threading.Thread(target=self._push, args=(audio, stream), name="audio", daemon=True)
            pushing.start()
            start = perf_counter()
            with contextlib.suppress(BrokenPipeError):
                self._write(stream, output)
            stats, seconds = stream.stats, perf_counter() - start
            log.info(
                "%d frames in %.1f s, %d late, %d silent", stats.frames, seconds, stats.late, stats.silent
            )

    def _check_paths(self) -> None:
        inputs = [InputPath("--face", self.face), *weights_inputs("--checkpoint_path", self.checkpoint_path)]
        if self.audio != STANDARD:
            inputs.append(InputPath("--audio", self.audio))
        if self.outfile != STANDARD and (not os.path.exists(self.outfile) or os.path.isfile(self.outfile)):
            check_outputs([OutputPath("--outfile", self.outfile)], inputs)

    def _open_audio(self) -> BinaryIO:
        try:
            return _open(self.audio, 0, "rb")
        except OSError as error:
            raise MediaError(f"cannot read --audio {self.audio}: {error.strerror}.") from error

    def _open_output(self) -> BinaryIO:
        try:
            return _open(self.outfile, 1, "wb")
        except OSError as error:
            raise OutputError(f"cannot write --outfile {self.outfile}: {error.strerror}.") from error

    def _open_stream(self) -> FaceStream:
        from wav2lip_npu.dubbing.inference import load_models
        from wav2lip_npu.live.outputs import coded_rate

        models = load_models(
            self.checkpoint_path,
            detector=self.live.faces.detector,
            device=self.device,
            precision=self.precision,
            engine=self.engine,
        )
        if self.checkpoint_path == STARTER:
            log.info("weights: %s (sha256 %s), %s", STARTER, models.digest, ABOUT)
        log.info("device %s, engine %s", describe(models.device), models.engine)
        log.info("%s", resolved(self))
        options = replace(self.live, sample_rate=coded_rate(self.live.sample_rate or self.rate))
        return models.stream(self.face, options=options, cache=FaceCache.at(self.cache))

    def _write(self, stream: FaceStream, output: BinaryIO) -> None:
        from wav2lip_npu.live.outputs import RawImages, TransportStream

        writer: FrameWriter = (
            RawImages(output) if self.to == "raw" else TransportStream(output, stream.fps, self.crf)
        )
        for frame in stream:
            writer.write(frame)
        writer.close()

    def _push(self, audio: BinaryIO, stream: FaceStream) -> None:
        """Push the audio to its end. A rest that is not a whole sample is dropped."""
        size = _BYTES * self.channels
        rest = b""
        with audio, contextlib.suppress(UsageError):  # the stream was closed
            try:
                while chunk := audio.read(_CHUNK):
                    chunk = rest + chunk
                    whole = len(chunk) - len(chunk) % size
                    rest = chunk[whole:]
                    stream.push_audio(chunk[:whole], self.rate, self.channels)
            except OSError as error:
                log.warning("cannot read --audio %s: %s", self.audio, error.strerror)
            if rest:
                log.warning("--audio %s ends within a sample", self.audio)
            stream.finish()


def _open(path: str, standard: int, mode: Literal["rb", "wb"]) -> BinaryIO:
    """Open a file, or the standard stream of this number. What is read comes at once, without a buffer."""
    is_standard, buffering = path == STANDARD, 0 if mode == "rb" else -1
    return open(standard if is_standard else path, mode, buffering=buffering, closefd=not is_standard)
