"""H.264 encoders: x264, and those of graphics hardware where it answers."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import av
from av.bitstream import BitStreamFilterContext

from wav2lip_npu.devices.device import cpu_count
from wav2lip_npu.errors import UsageError
from wav2lip_npu.media.yuv_image import YuvImage
from wav2lip_npu.options import check_types, nested_by_name

log = logging.getLogger(__name__)

Preset = Literal[
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"
]
PRESETS: tuple[str, ...] = get_args(Preset)
Encoder = Literal["x264", "auto", "nvenc", "qsv", "amf"]
_MIN_THREADS, _MAX_THREADS = 2, 16
"""Frames that x264 encodes at the same time, one for each core. Each takes memory, and 1 is another mode."""
_ANY_THREADS = {"mvrange-thread": "32", "lookahead-threads": "4", "direct": "spatial"}
"""Options of x264 whose defaults depend on the number of threads. With these, the bytes do not."""
_FEW_THREADS = 4
"""Up to this number, x264 looks ahead without a thread of its own, whose frames take 30 MB at 1080x1920."""
_NO_SETTINGS = "filter_units=remove_types=6"
"""Filter that removes the text with x264's options, which include the number of threads."""
_TRIAL_FRAMES = 4


@nested_by_name
@dataclass(frozen=True, kw_only=True)
class EncodeOptions:
    """Options of the H.264 encoder."""

    crf: int = 18
    """Constant rate factor, 0 (lossless) to 51 (worst). 18 is visually lossless."""
    preset: Preset = "veryfast"
    """Speed of the x264 encoder. A slower preset gives a smaller file of the same quality."""
    encoder: Encoder = "x264"
    """x264 writes the same bytes on every machine. nvenc (NVIDIA), qsv (Intel) and amf (AMD) are hardware,
    auto is the first of them that works. If none works, or with --crf 0, x264 is used."""

    def __post_init__(self) -> None:
        check_types(self)
        if not 0 <= self.crf <= 51:
            raise UsageError(f"--crf {self.crf} is out of range. Pass 0 (lossless) to 51.")


class _Hardware(NamedTuple):
    codec: str
    """Name in FFmpeg."""
    pix_fmt: str
    quality: tuple[str, ...]
    """Options that are set to the rate factor."""
    options: dict[str, str]


_HARDWARE = {
    "nvenc": _Hardware("h264_nvenc", "yuv420p", ("qp",), {"rc": "constqp", "preset": "p4"}),
    "qsv": _Hardware("h264_qsv", "nv12", ("global_quality",), {}),
    "amf": _Hardware("h264_amf", "nv12", ("qp_i", "qp_p", "qp_b"), {"rc": "cqp"}),
}


class VideoFormat(NamedTuple):
    """What an encoder is opened with."""

    first: YuvImage
    fps: Fraction
    pixel_aspect: Fraction


class VideoEncoder:
    """The video stream of a container, encoded as the options say.

    Raises `av.error.FFmpegError` if x264 cannot encode the format.
    """

    def __init__(self, container: Any, form: VideoFormat, options: EncodeOptions) -> None:
        self._container = container
        self._filter: BitStreamFilterContext | None = None
        self._hardware = _hardware_for(form, options)
        if self._hardware is not None:
            given = _hardware_options(self._hardware, options)
            self._stream = container.add_stream(self._hardware.codec, rate=form.fps, options=given)
            _set_format(self._stream.codec_context, form, self._hardware.pix_fmt)
        else:
            threads = max(_MIN_THREADS, min(_MAX_THREADS, cpu_count()))
            given = _x264_options(options, threads)
            self._stream = container.add_stream("libx264", rate=form.fps, options=given)
            _set_format(self._stream.codec_context, form, "yuv420p")
            # PyAV's default are sliced threads, which are slower and make larger files.
            self._stream.codec_context.thread_type = "FRAME"
            self._stream.codec_context.thread_count = threads
        self._stream.time_base = 1 / form.fps
        self._stream.codec_context.open()

    def write(self, frame: av.VideoFrame | None) -> None:
        """Encode a frame, or the end of the video with None, and write the packets that are complete."""
        for packet in self._stream.encode(frame):
            if self._hardware is None and self._filter is None:
                self._container.start_encoding()  # the filter needs the final parameters of the stream
                self._filter = BitStreamFilterContext(_NO_SETTINGS, self._stream)
            for part in [packet] if self._filter is None else self._filter.filter(packet):
                part.stream = self._stream
                self._container.mux(part)


def _set_format(context: Any, form: VideoFormat, pix_fmt: str) -> None:
    context.width, context.height, context.pix_fmt = form.first.width, form.first.height, pix_fmt
    context.sample_aspect_ratio = form.pixel_aspect
    colour = form.first.colour
    context.color_range, context.colorspace, context.color_primaries, context.color_trc = colour.labels


def _hardware_for(form: VideoFormat, options: EncodeOptions) -> _Hardware | None:
    """Return the hardware encoder of the options, or the first that answers with `auto`; None for x264."""
    if options.encoder == "x264" or options.crf == 0:
        return None
    names = list(_HARDWARE) if options.encoder == "auto" else [options.encoder]
    for hardware in map(_HARDWARE.__getitem__, names):
        if hardware.codec in av.codecs_available and _answers(hardware, form, options):
            log.info("--encoder %s: %s", options.encoder, hardware.codec)
            return hardware
    log.warning("--encoder %s: no such hardware answers, x264 is used", options.encoder)
    return None


def _answers(hardware: _Hardware, form: VideoFormat, options: EncodeOptions) -> bool:
    """Return whether an encoder encodes a few frames. Drivers also refuse sizes and concurrent videos."""
    context: Any = av.CodecContext.create(hardware.codec, "w")
    context.options = _hardware_options(hardware, options)
    context.time_base, context.framerate = 1 / form.fps, form.fps
    _set_format(context, form, hardware.pix_fmt)
    packets = []
    try:
        context.open()
        for number in range(_TRIAL_FRAMES):
            frame = av.VideoFrame(form.first.width, form.first.height, hardware.pix_fmt)
            frame.pts, frame.time_base = number, 1 / form.fps
            packets += context.encode(frame)
        packets += context.encode(None)
    except av.error.FFmpegError as error:
        log.debug("%s: %s", hardware.codec, error)
        return False
    return len(packets) == _TRIAL_FRAMES


def _hardware_options(hardware: _Hardware, options: EncodeOptions) -> dict[str, str]:
    return {**hardware.options, **dict.fromkeys(hardware.quality, str(options.crf))}


def _x264_options(options: EncodeOptions, threads: int) -> dict[str, str]:
    more = {**_ANY_THREADS, **_x264_code(), **({"sync-lookahead": "0"} if threads <= _FEW_THREADS else {})}
    text = ":".join(f"{name}={value}" for name, value in more.items())
    return {"crf": str(options.crf), "preset": options.preset, "x264-params": text}


@functools.cache
def _x264_code() -> dict[str, str]:
    """Return options that keep x264 from using AVX-512, whose output differs from run to run.

    The AVX-512 code reads uninitialised memory, which affects the last blocks of a row. AVX2 is as fast.
    """
    try:
        cpu = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return {}
    return {"asm": "AVX2"} if " avx512f " in cpu else {}
