"""Choose the streams of a container, and decode them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import Any

import av

from wav2lip_npu import signals
from wav2lip_npu.errors import MediaError, NoAudioError

log = logging.getLogger(__name__)

_MAX_DAMAGED_PACKETS = 1000
DECODE_ERRORS = (av.error.FFmpegError, ValueError)
"""Errors of `decode`. PyAV 19 raises `ValueError` for all packets after a decoder could not be opened."""
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""Decoders that also decode the alpha channel, which WebM stores beside the frames."""


def decode(container: Any, stream: Any, path: str | os.PathLike[str]) -> Iterator[Any]:
    """Yield the decoded frames of a stream; skipped damaged packets leave gaps in the time stamps.

    Raises:
        MediaError: The codec is unknown, or over 1000 packets are damaged.

    """
    if stream.codec_context is None:
        form = container.format.name
        what = f"image format {form[:-5]}" if form.endswith("_pipe") else f"{stream.type} codec"
        raise MediaError(f"the {what} of {path} cannot be decoded. Convert it to a common format.")
    decoder = _decoder(stream)
    damaged = 0
    packets = container.demux(stream)
    while True:
        signals.check()
        try:
            packet = next(packets, None)
            if packet is None:
                break
            frames = decoder.decode(packet)
        except av.error.EOFError:
            break
        except DECODE_ERRORS:
            damaged += 1
            if damaged > _MAX_DAMAGED_PACKETS:
                raise MediaError(
                    f"{path} is damaged: over {_MAX_DAMAGED_PACKETS} of its packets cannot be decoded."
                ) from None
            continue
        yield from frames
    if damaged:
        log.warning("%s: %d damaged packets skipped", path, damaged)


def _decoder(stream: Any) -> Any:
    """Return the decoder of a stream; for VP8 and VP9 with an alpha channel, one that decodes that too."""
    context = stream.codec_context
    has_alpha_channel = {"alpha_mode": "1"}.items() <= {
        k.lower(): v for k, v in stream.metadata.items()
    }.items()
    name = _ALPHA_DECODERS.get(context.name) if has_alpha_channel else None
    if name in av.codecs_available:
        context = av.CodecContext.create(name, "r")
        context.extradata = stream.codec_context.extradata
    if not context.is_hwaccel:  # each thread would need surfaces of the hardware
        context.thread_type = "AUTO"
    return context


def video_stream(container: Any, path: str | os.PathLike[str]) -> Any:
    """Return the video stream that FFmpeg prefers, not cover art. Raises `MediaError` if there is none."""
    for stream in (container.streams.best("video"), *container.streams.video):
        if stream is not None and not is_cover_art(stream):
            return stream
    content = "audio but no video" if container.streams.audio else "neither video nor audio"
    raise MediaError(f"{path} has {content}. Pass a video or an image.")


def is_cover_art(stream: Any) -> bool:
    """Return whether a video stream is the cover image of an audio file."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def audio_stream(container: Any, path: str | os.PathLike[str], track: int | None = None) -> Any:
    """Return an audio stream by its index, or the stream that FFmpeg prefers.

    FFmpeg prefers the default track, then the most channels, then the highest bit rate.

    Raises:
        NoAudioError: The file has no audio.
        MediaError: The file has fewer tracks.

    """
    tracks = container.streams.audio
    if not tracks:
        raise NoAudioError(f"{path} has no audio. Pass a file with an audio track as --audio or --voice.")
    if track is None:
        return container.streams.best("audio") or tracks[0]
    if track >= len(tracks):
        names = ", ".join(str(number) for number in range(len(tracks)))
        raise MediaError(f"{path} has no audio track {track}. Pass --audio_track {names}.")
    return tracks[track]
