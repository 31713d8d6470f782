"""Look into uploads in child processes with limits of memory, time and formats.

Decoders of media files have had faults that a file can use to run code or to exhaust a machine. The children
are forked from a clean process which has loaded the libraries, so that each takes a few milliseconds.
"""

from __future__ import annotations

import contextlib
import logging
import math
import multiprocessing
import os
import pkgutil
import resource
import signal
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import av
import PIL

from wav2lip_npu.dubbing import turn_files
from wav2lip_npu.errors import MediaError, Wav2LipError

_FORMATS = {
    "mov": "video/mp4",
    "matroska": "video/x-matroska",
    "avi": "video/x-msvideo",
    "mpegts": "video/mp2t",
    "mpeg": "video/mpeg",
    "flv": "video/x-flv",
    "asf": "video/x-ms-wmv",
    "ogg": "application/ogg",
    "wav": "audio/wav",
    "mp3": "audio/mpeg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "aiff": "audio/aiff",
    "w64": "audio/x-w64",
    "caf": "audio/x-caf",
    "amr": "audio/amr",
    "ac3": "audio/ac3",
    "gif": "image/gif",
    "apng": "image/apng",
    "jpegxl_pipe": "image/jxl",
}
"""Containers that are accepted, by FFmpeg's name, and their media types. No playlist is among them."""
_MEMORY_BYTES = 4 << 30
_CPU_S = 20
_WALL_S = 40
_NICE = 10
"""Lower priority of a child, so that the service answers while files are probed."""
_RTTM_START = 4096
"""Bytes in which the first line of an RTTM file is."""
_PRELOAD = ["wav2lip_npu.cli.main", "wav2lip_npu.media.container", "wav2lip_npu.serve.probe"]


@dataclass(frozen=True)
class MediaLimits:
    """Limits of one file."""

    max_seconds: float
    max_pixels: int


class Probe:
    """Looks into files, each in a process of its own."""

    def __init__(self, limits: MediaLimits) -> None:
        self._limits = limits
        self._context = multiprocessing.get_context("forkserver")
        names = [f"PIL.{module.name}" for module in pkgutil.iter_modules(PIL.__path__)]
        formats = [name for name in names if name.endswith("ImagePlugin")]
        self._context.set_forkserver_preload([*_PRELOAD, *formats])

    def media(self, path: Path, name: str) -> dict[str, Any]:
        """Return kind, size, frame rate and length of a file, see `inspect`. Blocks for up to `_WALL_S`.

        Raises:
            MediaError: It cannot be read or is beyond a limit. The message calls the file `name`.

        """
        reader, writer = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_child, args=(writer, path, self._limits), daemon=True)
        process.start()
        writer.close()
        try:
            kind, value = reader.recv() if reader.poll(_WALL_S) else ("timeout", {})
        except EOFError:
            kind, value = "died", {}
        finally:
            process.kill()
            process.join()
            reader.close()
        if kind == "ok":
            return dict(value)
        if kind == "error":
            raise MediaError(str(value).replace(str(path), name))
        raise MediaError(
            f"{name} cannot be read within {_MEMORY_BYTES >> 30} GiB of memory and {_CPU_S} s of CPU time. "
            "Convert it to MP4 (H.264 and AAC), or audio to WAV."
        )


def inspect(path: Path, limits: MediaLimits) -> dict[str, Any]:
    """Return `kind`, `width`, `height`, `fps`, `seconds`, `video_seconds`, `has_audio` and `type`.

    The length is that of the packets, not the one that the header states. Raises `MediaError`.
    """
    from wav2lip_npu.media.container import probe

    if is_rttm(path):
        unknown = dict.fromkeys(("width", "height", "fps", "seconds", "video_seconds"))
        return {"kind": "rttm", **unknown, "has_audio": False, "type": "text/plain"}
    media_type, has_audio, seconds, shown = _image_type(path, limits), False, 0.0, 0.0
    has_frames = media_type is not None
    if media_type is None:
        media_type, has_frames, has_audio, seconds, shown = _streams(path, limits)
    info = probe(path) if has_frames else None
    if info is not None:
        _check_size(path, info.width, info.height, limits)
        if info.kind == "webp":
            seconds = shown = float((info.frames or 0) / info.fps)
    if info is not None and info.is_image:
        values: dict[str, Any] = {"kind": "image", "fps": None, "seconds": None}
    elif info is not None:
        values = {"kind": "video", "fps": round(float(info.fps), 3), "seconds": round(seconds, 3)}
    else:
        values = {"kind": "audio", "fps": None, "seconds": round(seconds, 3)}
        media_type = media_type.replace("video/", "audio/")
    if values["seconds"] is not None and seconds > limits.max_seconds:
        raise MediaError(
            f"{path} is {seconds:.0f} s long, and {limits.max_seconds:g} s is the limit. Send a shorter file."
        )
    size = {"width": info and info.width, "height": info and info.height}
    video_seconds = round(shown, 3) if values["kind"] == "video" else None
    return {**values, **size, "video_seconds": video_seconds, "has_audio": has_audio, "type": media_type}


def is_rttm(path: Path) -> bool:
    """Return whether a file is an RTTM file of turns. Raises `UsageError` if it is a damaged one."""
    with open(path, "rb") as file:
        start = file.read(_RTTM_START)
    if not turn_files.is_rttm(start):
        return False
    turn_files.read_rttm(path)
    return True


def _image_type(path: Path, limits: MediaLimits) -> str | None:
    """Return the media type of a file that Pillow decodes; None for any other file."""
    from PIL import Image as Pillow

    from wav2lip_npu.media import images

    with open(path, "rb") as file:
        image = images.open_image(file, path)
        if image is None:
            return None
        _check_size(path, image.width, image.height, limits)
        return Pillow.MIME.get(image.format or "", "application/octet-stream")


def _streams(path: Path, limits: MediaLimits) -> tuple[str, bool, bool, float, float]:
    """Return media type, whether there are frames and audio, and seconds of all and of the frames."""
    from wav2lip_npu.media.container import is_cover_art, open_media

    with open_media(path) as container:
        names = container.format.name.split(",")
        media_type = next((_FORMATS[name] for name in names if name in _FORMATS), None)
        if media_type is None:
            raise MediaError(
                f"{path} is in the format {names[0]}, which is not accepted. Convert it to MP4, WAV or PNG."
            )
        frames = [stream for stream in container.streams.video if not is_cover_art(stream)]
        audio = container.streams.audio
        for stream in frames:
            if stream.codec_context is not None:
                _check_size(path, stream.codec_context.width, stream.codec_context.height, limits)
        if not frames and not audio:
            raise MediaError(f"{path} has neither video nor audio. Send a video, image or audio file.")
        return media_type, bool(frames), bool(audio), *_seconds(container)


def _seconds(container: Any) -> tuple[float, float]:
    """Return the end of the last packet of all streams and of video, in seconds from that of the first."""
    firsts, lasts = {"video": math.inf, "audio": math.inf}, {"video": 0.0, "audio": 0.0}
    streams = [*container.streams.video, *container.streams.audio]
    with contextlib.suppress(av.error.FFmpegError):  # the end of a truncated file
        for packet in container.demux(streams):
            time = packet.dts if packet.pts is None else packet.pts
            if time is not None and packet.time_base is not None:
                begin = float(time * packet.time_base)
                end = begin + float((packet.duration or 0) * packet.time_base)
                kind = packet.stream.type
                firsts[kind], lasts[kind] = min(firsts[kind], begin), max(lasts[kind], end)
    length = max(lasts.values()) - min(firsts.values())
    return max(0.0, length), max(0.0, lasts["video"] - firsts["video"])


def _check_size(path: Path, width: int, height: int, limits: MediaLimits) -> None:
    if width * height > limits.max_pixels:
        raise MediaError(
            f"{path} has frames of {width}x{height}, and {limits.max_pixels:,} pixels are the limit. "
            "Scale it down."
        )


def _child(writer: Connection, path: Path, limits: MediaLimits) -> None:
    """Send the media of a file, or an error. Runs in a child process, with limits."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    os.nice(_NICE)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.disable()
    try:
        writer.send(("ok", inspect(path, limits)))
    except Wav2LipError as error:
        writer.send(("error", str(error)))
    except MemoryError:
        writer.send(("died", None))
