"""Read audio of any container, codec, sample rate and channel count, aligned with the video of the same file.

Time 0 is the first frame of the video, or the first sample of a file without video. The start times in the
container (AAC priming, edit lists, a late track) are applied: audio before time 0 is cut; a late start and
gaps are filled with silence.
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
from wav2lip_npu.media import container as containers
from wav2lip_npu.media.container import LONGEST_GAP_S

Samples = NDArray[np.float32]
_SHORTEST_GAP_S = 0.1


@dataclass(frozen=True)
class Audio:
    """A whole audio track."""

    wav: Samples
    """float32 [samples], mono at 16 kHz, not normalised."""
    duration: Fraction
    """Seconds, exact at the sample rate of the file."""
    sample_rate: int
    """Sample rate of the file, in Hz."""
    channels: int
    """Number of channels of the file."""


def read_audio(path: str | os.PathLike[str], sample_rate: int = 16_000) -> Samples:
    """Return the first audio track as mono float32 [samples]. Raises `MediaError` as `load_audio` does."""
    return load_audio(path, sample_rate).wav


def load_audio(path: str | os.PathLike[str], sample_rate: int = 16_000) -> Audio:
    """Return the first audio track, channels averaged, resampled to `sample_rate`.

    Raises:
        NoAudioError: The file has no audio track, or an empty one.
        MediaError: The file is unreadable or truncated, or contains NaN or infinite samples.

    """
    blocks: list[Samples] = []
    samples = rate = channels = 0
    resampler = None
    for rate, block in read_blocks(path):
        if not np.isfinite(block).all():
            raise MediaError(
                f"the audio of {path} is NaN or infinite near {samples / rate:.2f} s. Export it again."
            )
        if resampler is None:
            resampler = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32", quality="HQ")
            channels = len(block)
        samples += block.shape[1]
        blocks.append(resampler.resample_chunk(block.mean(axis=0)))
    if resampler is None:
        raise NoAudioError(f"the audio track of {path} is empty. Pass a file with audio.")
    blocks.append(resampler.resample_chunk(np.zeros(0, np.float32), last=True))
    return Audio(np.concatenate(blocks), Fraction(samples, rate), rate, channels)


def read_blocks(path: str | os.PathLike[str]) -> Iterator[tuple[int, Samples]]:
    """Yield sample rate and float32 [channels, samples] of the first audio track, block by block from time 0.

    Raises:
        NoAudioError: The file has no audio track.
        MediaError: The file is unreadable or truncated.

    """
    with containers.open_media(path) as container:
        if not container.streams.audio:
            raise NoAudioError(f"{path} has no audio. Pass a file with an audio track as --audio.")
        stream = container.streams.audio[0]
        zero = _start_of_video(container)
        end = _stated_end(container, stream)
        resampler: Any = None
        source: Any = None
        layout: Any = None
        rate = position = cut = 0
        for frame in containers.decode(container, stream, path):
            if resampler is None:
                rate, layout = frame.sample_rate, frame.layout
            if source != (source := (frame.format.name, frame.sample_rate, frame.layout.name)):
                # Packed, because PyAV miscounts the planes of 8 channels and more.
                resampler = av.AudioResampler("flt", layout, rate)
            block = _samples(resampler.resample(frame), layout.nb_channels)
            if frame.time is not None:
                # The last AAC frame is padded; the container states where the audio ends within it.
                if frame.time < end < frame.time + block.shape[1] / rate:
                    block = block[:, : round((end - frame.time) * rate)]
                zero = frame.time if zero is None else zero
                gap = round((frame.time - zero) * rate) - position
                if position == 0 and gap < 0:
                    cut += min(-gap, block.shape[1])
                    block = block[:, -gap:]
                elif gap > (_SHORTEST_GAP_S * rate if position else 0) and gap < LONGEST_GAP_S * rate:
                    position += gap
                    for start in range(0, gap, rate):
                        yield rate, np.zeros((len(block), min(rate, gap - start)), np.float32)
            if block.shape[1]:
                position += block.shape[1]
                yield rate, np.ascontiguousarray(block)
        if resampler is not None:
            stated = containers.stated_duration(container, stream)
            containers.check_complete(path, "audio", (position + cut) / rate, stated)


def _samples(frames: list[Any], channels: int) -> Samples:
    """Return packed audio frames as float32 [channels, samples]."""
    parts = [frame.to_ndarray().reshape(-1, channels) for frame in frames]
    return np.concatenate(parts).T if parts else np.zeros((channels, 0), np.float32)


def _start_of_video(container: Any) -> float | None:
    """Return the time of the first frame in seconds; None without video."""
    for stream in container.streams.video:
        if not containers.is_cover_art(stream):
            return float(stream.start_time * stream.time_base) if stream.start_time is not None else 0.0
    return None


def _stated_end(container: Any, stream: Any) -> float:
    """Return the end of the audio in seconds; infinity if the container does not state it."""
    if "mp4" not in container.format.name or stream.duration is None:
        return math.inf
    return float(((stream.start_time or 0) + stream.duration) * stream.time_base)
