"""Mix audio tracks block by block: each is placed at a time, and heard in spans of the mix.

A mix is an `AudioInfo`: it is read, measured and encoded like the audio of a file.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import soxr

from wav2lip_npu.media.audio_reader import AudioInfo, Samples
from wav2lip_npu.media.downmix import Downmix

Span = tuple[Fraction, Fraction]
"""First second, and that after the last."""
_FULL: Samples = np.ones((), np.float32)
_RAMP_S = Fraction(1, 100)
"""Seconds over which a track fades where a span cuts it, against clicks."""


@dataclass(frozen=True, kw_only=True)
class PlacedAudio:
    """An audio track in a mix."""

    source: AudioInfo
    start: Fraction = Fraction(0)
    """Time of its first sample in the mix; negative if its beginning is not heard."""
    spans: tuple[Span, ...] | None = None
    """Times of the mix in which it is heard, in order, without overlaps. None: all."""

    @property
    def end(self) -> Fraction:
        """Time after its last sample that is heard."""
        end = self.start + self.source.duration
        return end if self.spans is None else min(end, self.spans[-1][1])


@dataclass(frozen=True, kw_only=True)
class AudioMix(AudioInfo):
    """The sum of several tracks, at the highest of their sample rates."""

    tracks: tuple[PlacedAudio, ...]

    @classmethod
    def of(cls, tracks: Sequence[PlacedAudio], name: str) -> AudioMix:
        """Return a mix that ends with its last track; `name` stands for a path in messages."""
        rate = max(track.source.sample_rate for track in tracks)
        channels = {track.source.channels for track in tracks}
        end = max(track.end for track in tracks)
        return cls(
            path=name,
            sample_rate=rate,
            channels=channels.pop() if len(channels) == 1 else 2,
            samples=max(1, math.ceil(end * rate)),
            tracks=tuple(tracks),
        )

    def blocks(self) -> Generator[tuple[int, Samples], None, None]:
        """Yield sample rate and float32 [channels, samples] of the mix, a second at a time."""
        rate = self.sample_rate
        readers = [_Reader(track, rate, self.channels) for track in self.tracks]
        try:
            for begin in range(0, self.samples, rate):
                block: Samples = np.zeros((self.channels, min(rate, self.samples - begin)), np.float32)
                for reader in readers:
                    reader.add_to(block, begin)
                yield rate, block
        finally:
            for reader in readers:
                reader.close()


class _Reader:
    """Reads one track of a mix, from its beginning. The file is open only while it is heard."""

    def __init__(self, track: PlacedAudio, rate: int, channels: int) -> None:
        self._track, self._rate = track, rate
        self._position = round(track.start * rate)
        """Sample of the mix that comes next from the file."""
        self._end = math.ceil(track.end * rate)
        first = track.start if track.spans is None else track.spans[0][0]
        self._begin = math.floor(first * rate)
        self._blocks: Any = _converted(track.source, rate, channels)
        self._held: Samples = np.zeros((channels, 0), np.float32)

    def close(self) -> None:
        self._blocks.close()

    def add_to(self, block: Samples, begin: int) -> None:
        """Add the track to a block that starts at sample `begin` of the mix. Blocks come in order."""
        end = min(begin + block.shape[1], self._end)
        if end <= self._begin:
            return
        while self._position < end:
            if not self._held.shape[1]:
                following = next(self._blocks, None)
                if following is None:
                    self._end = self._position
                    break
                self._held = following
                continue
            part, self._held = np.split(self._held, [end - self._position], axis=1)
            skipped = max(0, begin - self._position)
            first = self._position + skipped - begin
            self._position += part.shape[1]
            if part.shape[1] > skipped:
                gains = self._gains(begin + first, part.shape[1] - skipped)
                block[:, first : first + part.shape[1] - skipped] += part[:, skipped:] * gains
        if self._position >= self._end:
            self.close()

    def _gains(self, first: int, count: int) -> Samples:
        """Return the gains, float32 [count], of the samples of the mix from `first` on."""
        spans = self._track.spans
        if spans is None:
            return _FULL
        gains: Samples = np.zeros(count, np.float32)
        times = np.arange(first, first + count) / self._rate
        last_sample = self._track.start + self._track.source.duration
        begins = [span[0] for span in spans]
        for start, end in spans[max(0, bisect_right(begins, Fraction(first, self._rate)) - 1) :]:
            if start * self._rate >= first + count:
                break
            rise = np.inf if start <= self._track.start else (times - float(start)) / float(_RAMP_S)
            fall = np.inf if end >= last_sample else (float(end) - times) / float(_RAMP_S)
            inside = (times >= float(start)) & (times < float(end))
            gains[inside] = np.broadcast_to(np.clip(np.minimum(rise, fall), 0, 1), count)[inside]
        return gains


def _converted(source: AudioInfo, rate: int, channels: int) -> Iterator[Samples]:
    """Yield float32 [channels, samples] of a track at another sample rate."""
    blocks = source.blocks()
    downmix = Downmix(source.sample_rate)
    resampler = (
        None if source.sample_rate == rate else soxr.ResampleStream(source.sample_rate, rate, channels)
    )
    try:
        for _, block in blocks:
            if len(block) != channels:
                block = np.repeat((block if len(block) == 1 else downmix(block)[None]), channels, axis=0)
            yield block if resampler is None else _resampled(resampler, block)
        if resampler is not None:
            yield _resampled(resampler, np.zeros((channels, 0), np.float32), last=True)
    finally:
        blocks.close()


def _resampled(resampler: Any, block: Samples, *, last: bool = False) -> Samples:
    packed = np.ascontiguousarray(block.T)
    result: Samples = resampler.resample_chunk(packed, last=last).reshape(-1, len(block)).T
    return result
