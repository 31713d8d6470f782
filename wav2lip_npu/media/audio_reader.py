"""Sound in: any container, codec, rate, depth and channel count, lined up with its picture.

Time 0 is the first picture of the same file, or the first sample of a file without pictures. What the
container says of the start (AAC priming, edit lists, a late track) is obeyed: sound from before time 0
is cut, a late start and a hole are filled with silence.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
import soxr
from numpy.typing import NDArray

from wav2lip_npu.errors import MediaError, NoAudioError
from wav2lip_npu.media.video_reader import LONGEST_HOLD_S, check_whole, decode, is_cover_art, open_media

Samples = NDArray[np.float32]
_SMALLEST_HOLE_S = 0.1


@dataclass(frozen=True)
class Audio:
    """A whole recording as the networks need it."""

    wav: Samples
    """Mono float32 [samples] at 16 kHz, not normalised."""
    duration: Fraction
    """Seconds, exact at the rate of the file."""
    sample_rate: int
    """Of the file."""
    channels: int
    """Of the file."""


def read_audio(path: str | os.PathLike[str], sample_rate: int = 16_000) -> Samples:
    """Mono float32 [samples] in [-1, 1] of the first sound track. Raises `MediaError` as `load_audio`."""
    return load_audio(path, sample_rate).wav


def load_audio(path: str | os.PathLike[str], sample_rate: int = 16_000) -> Audio:
    """The first sound track, channels averaged, resampled.

    Raises `MediaError` when the file is unreadable or truncated, has no sound, or its samples are not
    numbers.
    """
    blocks: list[Samples] = []
    samples = rate = channels = 0
    resampler = None
    for rate, block in read_blocks(path):
        if not np.isfinite(block).all():
            raise MediaError(
                f"{path} holds sound that is NaN or infinite near {samples / rate:.2f} s. Export it again."
            )
        if resampler is None:
            resampler = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32", quality="HQ")
            channels = len(block)
        samples += block.shape[1]
        blocks.append(resampler.resample_chunk(block.mean(axis=0)))
    if resampler is None:
        raise NoAudioError(f"{path} holds no sound: its sound track is empty. Pass a file with sound.")
    blocks.append(resampler.resample_chunk(np.zeros(0, np.float32), last=True))
    return Audio(np.concatenate(blocks), Fraction(samples, rate), rate, channels)


def read_blocks(path: str | os.PathLike[str]) -> Iterator[tuple[int, Samples]]:
    """Rate and float32 [channels, samples] of the first sound track, block by block from time 0 on."""
    with open_media(path) as container:
        if not container.streams.audio:
            raise NoAudioError(f"{path} holds no sound. Pass a file with a sound track as --audio.")
        stream = container.streams.audio[0]
        zero = _start_of_picture(container)
        end = _stated_end(container, stream)
        resampler: Any = None
        source: Any = None
        layout: Any = None
        rate = position = cut = 0
        for frame in decode(container, stream, path):
            if resampler is None:
                rate, layout = frame.sample_rate, frame.layout
            if source != (source := (frame.format.name, frame.sample_rate, frame.layout.name)):
                # packed, as PyAV miscounts planes from 8 channels on
                resampler = av.AudioResampler("flt", layout, rate)
            block = _samples(resampler.resample(frame), layout.nb_channels)
            if frame.time is not None:
                # The last AAC frame is padded; the container knows where the sound ends within it.
                if frame.time < end < frame.time + block.shape[1] / rate:
                    block = block[:, : round((end - frame.time) * rate)]
                zero = frame.time if zero is None else zero
                hole = round((frame.time - zero) * rate) - position
                if position == 0 and hole < 0:
                    cut += min(-hole, block.shape[1])
                    block = block[:, -hole:]
                elif hole > (_SMALLEST_HOLE_S * rate if position else 0) and hole < LONGEST_HOLD_S * rate:
                    position += hole
                    for start in range(0, hole, rate):
                        yield rate, np.zeros((len(block), min(rate, hole - start)), np.float32)
            if block.shape[1]:
                position += block.shape[1]
                yield rate, np.ascontiguousarray(block)
        if resampler is not None:
            check_whole(container, stream, path, (position + cut) / rate)


def _samples(frames: list[Any], channels: int) -> Samples:
    """float32 [channels, samples] of packed frames."""
    parts = [frame.to_ndarray().reshape(-1, channels) for frame in frames]
    return np.concatenate(parts).T if parts else np.zeros((channels, 0), np.float32)


def _start_of_picture(container: Any) -> float | None:
    """Seconds at which the first picture is shown; `None` without pictures."""
    for stream in container.streams.video:
        if not is_cover_art(stream):
            return float(stream.start_time * stream.time_base) if stream.start_time is not None else 0.0
    return None


def _stated_end(container: Any, stream: Any) -> float:
    """Seconds at which an MP4 or MOV file says that its sound ends; infinite for others."""
    if "mp4" not in container.format.name or stream.duration is None:
        return math.inf
    return float(((stream.start_time or 0) + stream.duration) * stream.time_base)
