"""Read audio of any container, codec, sample rate and channel count, aligned with the video of the same file.

Time 0 is the first frame of the video, or the first sample of a file without video. The start times in the
container (AAC priming, edit lists, a late track) are applied: audio before time 0 is cut; a late start and
gaps are filled with silence.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Generator
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
from wav2lip_npu.media.downmix import Downmix
from wav2lip_npu.media.streams import audio_stream

log = logging.getLogger(__name__)

Samples = NDArray[np.float32]
_SHORTEST_GAP_S = 0.1
_MIN_RATE, _MAX_RATE = 100, 10_000_000
"""Limits of the sample rate. At 1 Hz, a block of a FLAC file of some kB becomes 4 GB at 16 kHz."""
_LOUDEST = 1000
"""60 dB above full scale. 16-bit integers stored as floating point reach 32768."""


@dataclass(frozen=True, kw_only=True)
class AudioInfo:
    """Properties of an audio track, see `measure_audio`. The functions below accept it as their source."""

    path: str
    sample_rate: int
    """Sample rate of the file, in Hz."""
    channels: int
    """Number of channels of the file."""
    samples: int
    """Number of samples of each channel."""
    track: int = 0
    """Index of the audio track in the file, from 0."""

    @property
    def duration(self) -> Fraction:
        """Seconds, exact at the sample rate of the file."""
        return Fraction(self.samples, self.sample_rate)

    def blocks(self) -> Generator[tuple[int, Samples], None, None]:
        """Yield sample rate and float32 [channels, samples], see `read_blocks`."""
        return _read_file(self.path, self.track)


AudioSource = AudioInfo | str | os.PathLike[str]
"""An audio track: its measured properties, or the path of its file."""


def measure_audio(path: str | os.PathLike[str], track: int | None = None) -> AudioInfo:
    """Decode and check a whole audio track, block by block, and return its properties.

    `track` is its index among the audio tracks of the file; None is the track that FFmpeg prefers.

    Raises:
        NoAudioError: The file has no audio track, or an empty one.
        MediaError: The file is unreadable or truncated, or contains NaN or infinite samples.

    """
    samples = rate = channels = 0
    track = _find_track(path, track)
    for rate, block in read_blocks(path, track):
        _check_samples(path, block, samples / rate)
        channels = len(block)
        samples += block.shape[1]
    if not samples:
        raise _no_samples(path)
    return AudioInfo(path=os.fspath(path), sample_rate=rate, channels=channels, samples=samples, track=track)


def read_audio(source: AudioSource, sample_rate: int = 16_000) -> Samples:
    """Return a whole audio track, float32 [samples]. For long tracks, use `read_mono`."""
    return np.concatenate(list(read_mono(source, sample_rate)))


def read_mono(source: AudioSource, sample_rate: int = 16_000) -> Generator[Samples, None, None]:
    """Yield an audio track as blocks of float32 [samples]: channels mixed, resampled, not normalised.

    Raises:
        NoAudioError: The file has no audio track, or an empty one.
        MediaError: The file is unreadable or truncated, or contains NaN or infinite samples.

    """
    path = path_of(source)
    resampler: Any = None
    downmix: Any = None
    samples = 0
    for rate, block in read_blocks(source):
        _check_samples(path, block, samples / rate)
        if resampler is None:
            downmix = Downmix(rate)
            resampler = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32", quality="HQ")
        samples += block.shape[1]
        yield resampler.resample_chunk(downmix(block))
    if resampler is None:
        raise _no_samples(path)
    yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def path_of(source: AudioSource) -> str:
    """Return the path of the file of an audio track."""
    return source.path if isinstance(source, AudioInfo) else os.fspath(source)


def _find_track(path: str | os.PathLike[str], track: int | None) -> int:
    with containers.open_media(path) as container:
        tracks = container.streams.audio
        number = int(tracks.index(audio_stream(container, path, track)))
        if len(tracks) > 1:
            log.info("%s has %d audio tracks: using --audio_track %d", path, len(tracks), number)
        return number


def _check_samples(path: str | os.PathLike[str], block: Samples, seconds: float) -> None:
    loudest = float(np.abs(block).max(initial=0))
    if not math.isfinite(loudest):
        raise MediaError(f"the audio of {path} is NaN or infinite near {seconds:.2f} s. Export it again.")
    if loudest > _LOUDEST:
        raise MediaError(
            f"the audio of {path} reaches {loudest:.3g} near {seconds:.2f} s; full scale is 1. Normalise it."
        )


def _no_samples(path: str | os.PathLike[str]) -> NoAudioError:
    return NoAudioError(f"the audio track of {path} is empty. Pass a file with audio.")


def read_blocks(source: AudioSource, track: int | None = None) -> Generator[tuple[int, Samples], None, None]:
    """Yield sample rate and float32 [channels, samples] of an audio track, block by block from time 0.

    `track` selects the track of a path, see `measure_audio`.

    Raises:
        NoAudioError: The file has no audio track.
        MediaError: The file is unreadable or truncated.

    """
    return source.blocks() if isinstance(source, AudioInfo) else _read_file(os.fspath(source), track)


def _read_file(path: str, track: int | None) -> Generator[tuple[int, Samples], None, None]:
    with containers.open_media(path) as container:
        stream = audio_stream(container, path, track)
        zero = _start_of_video(container)
        end = _stated_end(container, stream)
        resampler: Any = None
        form: Any = None
        layout: Any = None
        rate = position = cut = 0
        for frame in containers.decode(container, stream, path):
            if resampler is None:
                rate, layout = frame.sample_rate, frame.layout
                if not _MIN_RATE <= rate <= _MAX_RATE:
                    raise MediaError(
                        f"the audio of {path} claims {rate} samples per second. Export it again."
                    )
            if form != (form := (frame.format.name, frame.sample_rate, frame.layout.name)):
                # Packed, because PyAV miscounts the planes of 8 channels and more.
                resampler = av.AudioResampler("flt", layout, rate)
            try:
                block = _samples(resampler.resample(frame), layout.nb_channels)
            except av.error.FFmpegError as error:
                raise MediaError(f"cannot convert the audio of {path}: {error.strerror}.") from error
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
