"""Copy a section of a long video or recording into a small file, without decoding the rest of it."""

from __future__ import annotations

import contextlib
import os
import wave
from fractions import Fraction

import av
import numpy as np

from wav2lip_npu.errors import MediaError
from wav2lip_npu.media import container as containers
from wav2lip_npu.media.audio_reader import AudioSource, read_mono
from wav2lip_npu.media.container import VideoInfo

_REORDER_S = 1.0
"""Seconds of packets after the end: a codec may show a frame earlier than its packet comes."""
_RATE = 16_000
_FULL_SCALE = 32767


def copy_video(info: VideoInfo, out: str | os.PathLike[str], start: float, end: float) -> Fraction | None:
    """Copy the frames of a video from the key frame before a time to another time into a Matroska file.

    Args:
        info: The video.
        out: File to write.
        start: Seconds from the first frame.
        end: Seconds from the first frame.

    Returns:
        The time of the first copied frame in seconds; None if this video cannot be cut without decoding it,
        such as one without time stamps.

    """
    if info.kind != "video":
        return None
    try:
        with (
            containers.open_probed(info) as source,
            av.open("file:" + os.fspath(out), "w", format="matroska") as target,
        ):
            if source.format.name == "avi":
                return None
            stream = containers.video_stream(source, info.path)
            copied = target.add_stream_from_template(stream)
            zero = stream.start_time or 0
            source.seek(zero + int(start / stream.time_base), stream=stream)
            first: int | None = None
            for packet in source.demux(stream):
                if packet.pts is None or packet.dts is None:
                    if packet.size:
                        return None
                    continue
                if first is None:
                    if not packet.is_keyframe:
                        return None
                    first = packet.pts
                if (packet.dts - zero) * stream.time_base > end + _REORDER_S:
                    break
                packet.stream = copied
                target.mux(packet)
            return None if first is None else (first - zero) * stream.time_base
    except (av.error.FFmpegError, MediaError, ValueError):
        return None


def copy_audio(source: AudioSource, out: str | os.PathLike[str], start: float, end: float) -> None:
    """Write a part of a recording as a WAV file of 16 kHz mono. Times are in seconds.

    Raises:
        MediaError: The recording is unreadable or damaged.

    """
    first, last, position = round(start * _RATE), round(end * _RATE), 0
    with wave.open(os.fspath(out), "wb") as file, contextlib.closing(read_mono(source)) as blocks:
        file.setparams((1, 2, _RATE, 0, "NONE", "NONE"))
        for block in blocks:
            part = block[max(0, first - position) : max(0, last - position)]
            position += len(block)
            file.writeframes(np.rint(np.clip(part, -1, 1) * _FULL_SCALE).astype("<i2").tobytes())
            if position >= last:
                return
