"""The turns of speakers in frames: from a table, or from the pauses of each speaker's audio."""

from __future__ import annotations

import math
import sys
from bisect import bisect_right
from collections.abc import Container, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from wav2lip_npu.dubbing.pauses import Pauses
from wav2lip_npu.dubbing.voices import Voice, merged
from wav2lip_npu.media.audio_mix import Span
from wav2lip_npu.mel import DEFAULT_MEL

_LISTENING_S = 1
"""Seconds of a pause from which a speaker listens, if somebody else speaks in it."""
_COLUMN = Fraction(DEFAULT_MEL.hop, DEFAULT_MEL.sample_rate)


@dataclass(frozen=True)
class FrameSpans:
    """Indices of frames, as spans without overlaps, in order: the first, and that after the last."""

    spans: tuple[tuple[int, int], ...]

    def __contains__(self, index: object) -> bool:
        assert isinstance(index, int)
        position = bisect_right(self.spans, (index, sys.maxsize)) - 1
        return position >= 0 and index < self.spans[position][1]

    @property
    def others(self) -> Container[int]:
        """All other indices."""
        return _Others(self)

    def widened(self, frames: int) -> FrameSpans:
        """Return spans that are longer at both ends."""
        joined: list[tuple[int, int]] = []
        for first, end in self.spans:
            first, end = first - frames, end + frames
            if joined and first <= joined[-1][1]:
                first = joined.pop()[0]
            joined.append((first, end))
        return FrameSpans(tuple(joined))


@dataclass(frozen=True)
class _Others:
    spans: FrameSpans

    def __contains__(self, index: object) -> bool:
        return index not in self.spans


@dataclass(frozen=True)
class Turns:
    """The turns of one speaker."""

    seconds: tuple[Span, ...]

    @staticmethod
    def always() -> FrameSpans:
        """Return all frames."""
        return FrameSpans(((0, sys.maxsize // 2),))

    def frames(self, fps: Fraction, first: int, fade: int) -> FrameSpans:
        """Return the frames of the turns, and `fade` more at each end; the output starts at frame `first`."""
        return FrameSpans(
            tuple(
                (math.floor(start * fps) - first, math.ceil(end * fps) - first) for start, end in self.seconds
            )
        ).widened(fade)


def turns_of(voices: Sequence[Voice], pauses: Sequence[Pauses | None]) -> list[Turns]:
    """Return the turns of each speaker.

    Without a table, a speaker listens in pauses of at least a second in which somebody else speaks. Without
    `pauses`, a speaker speaks all the time.
    """
    spoken = [
        ((Fraction(0), voice.audio.duration),) if found is None else _spoken(found, voice.audio.duration)
        for voice, found in zip(voices, pauses, strict=True)
    ]
    turns = []
    for number, (voice, own) in enumerate(zip(voices, spoken, strict=True)):
        others = merged(span for other, spans in enumerate(spoken) if other != number for span in spans)
        turns.append(Turns(voice.turns if voice.turns is not None else _closed(own, others)))
    return turns


def _spoken(pauses: Pauses, duration: Fraction) -> tuple[Span, ...]:
    """Return the times without long pauses."""
    edges = np.flatnonzero(np.diff(~pauses, prepend=False, append=False)).tolist()
    spans = (
        (first * _COLUMN, min(end * _COLUMN, duration))
        for first, end in zip(edges[::2], edges[1::2], strict=True)
    )
    return merged((span for span in spans if span[0] < span[1]), gap=Fraction(_LISTENING_S))


def _closed(own: Sequence[Span], others: Sequence[Span]) -> tuple[Span, ...]:
    """Return the spans; those between which nobody else speaks are one."""
    joined: list[Span] = []
    starts = [start for start, _ in others]
    for start, end in own:
        if joined:
            before = joined[-1][1]
            position = bisect_right(starts, before) - 1
            is_silent = not (position >= 0 and others[position][1] > before) and not any(
                before <= other < start for other in starts[position + 1 : position + 2]
            )
            if is_silent:
                joined[-1] = joined[-1][0], end
                continue
        joined.append((start, end))
    return tuple(joined)
