"""Cut pushed audio into frames: the mel window of each, its own audio, and whether it is silent.

The samples are the clock: frame `n` is the audio from `n / fps` on, however it was pushed.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from fractions import Fraction
from time import monotonic
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from wav2lip_npu.dubbing.pauses import Pauses, loudness, rest_weights, with_silence
from wav2lip_npu.live.pauses import RunningPauses
from wav2lip_npu.live.pcm import Pcm, Samples, channels_of, to_int16
from wav2lip_npu.media.downmix import Downmix
from wav2lip_npu.mel import DEFAULT_MEL, Mel, MelAudio, window_start

_WINDOW = DEFAULT_MEL.columns_per_window
_HISTORY = 2 * _WINDOW
"""Columns before a window that determine how long a pause has lasted."""
_NONE: Samples = np.zeros(0, np.float32)


@dataclass(frozen=True)
class AudioFrame:
    """The audio of one frame."""

    number: int
    """Number of the frame, from the beginning of the stream."""
    mel: Mel
    """Mel window float32 [80, 16]; in pauses, that of silence."""
    audio: NDArray[np.int16]
    """Samples of this frame."""
    is_silent: bool
    """Whether the whole window is a pause."""
    pushed: float | None
    """Time of the push of the first sample, as of `monotonic`. None: all are silence that fills a gap."""


class AudioFeed:
    """Takes audio in chunks of any size, and returns the frames that it completes.

    A frame is complete when its mel window is: 173 or 213 ms after its beginning. The result does not depend
    on the sizes of the chunks.

    Args:
        fps: Frames per second.
        shift: See `window_start`.
        sample_rate: Sample rate of the audio of the frames; None: that of the first chunk.
        threshold: dB below the loud parts from which audio is a pause; None: the mel is not changed.

    """

    def __init__(
        self, fps: Fraction, shift: float, *, sample_rate: int | None = None, threshold: float | None
    ) -> None:
        self.sample_rate = sample_rate
        self._fps, self._shift, self._threshold = fps, shift, threshold
        self._pauses = None if threshold is None else RunningPauses(threshold)
        self._input: _Input | None = None
        self._segment = self._new_segment(0)

    def push(self, pcm: Pcm, rate: int, channels: int = 1, *, is_idle: bool = False) -> list[AudioFrame]:
        """Append a chunk and return the frames that are now complete.

        `is_idle` marks silence that fills a gap. Raises `UsageError` if the chunk is invalid; nothing is then
        appended.
        """
        block = channels_of(pcm, rate, channels)
        if not block.shape[1]:
            return []
        if self.sample_rate is None:
            self.sample_rate = int(rate)
        samples = _NONE
        if self._input is not None and self._input.form != (rate, len(block)):
            samples, self._input = self._input.finish(), None
        if self._input is None:
            self._input = _Input((int(rate), len(block)), self.sample_rate)
        samples = np.concatenate([samples, self._input.push(block)])
        return self._segment.push(samples, is_idle=is_idle)

    def hurry(self) -> list[AudioFrame]:
        """Return the frames whose own audio is complete, as if what follows were like its end."""
        return self._segment.hurry()

    def flush(self) -> list[AudioFrame]:
        """Return the remaining frames. Silence fills the last one, and follows it."""
        if self.sample_rate is None:
            return []
        rest = _NONE if self._input is None else self._input.finish()
        self._input = None
        frames = self._segment.push(rest) + self._segment.finish()
        self._segment = self._new_segment(self._segment.next_frame)
        return frames

    def clear(self, next_frame: int) -> None:
        """Forget the audio that has not become frames. The next frame gets this number."""
        self._input = None
        self._segment = self._new_segment(next_frame)

    def _new_segment(self, first_frame: int) -> _Segment:
        return _Segment(first_frame, self)

    @property
    def next_frame(self) -> int:
        """Number of the next frame."""
        return self._segment.next_frame

    # Used by segments.

    @property
    def fps(self) -> Fraction:
        """Frames per second."""
        return self._fps

    def start_of(self, frame: int) -> int:
        """Return the first mel column of a frame of a segment."""
        return max(window_start(frame, self._fps, self._shift), 0)

    def pauses_of(self, mel: Mel) -> Pauses:
        """Return which of the next mel columns are pauses."""
        return np.zeros(mel.shape[1], np.bool_) if self._pauses is None else self._pauses(loudness(mel))


class _Input:
    """Mixes and resamples the chunks of one format."""

    def __init__(self, form: tuple[int, int], sample_rate: int) -> None:
        self.form = form
        """Sample rate and channels."""
        self._downmix = Downmix(form[0])
        self._resampler = _resampler(form[0], sample_rate)

    def push(self, block: Samples) -> Samples:
        mono = self._downmix(block)
        return mono if self._resampler is None else self._resampler.resample_chunk(mono)

    def finish(self) -> Samples:
        return _NONE if self._resampler is None else self._resampler.resample_chunk(_NONE, last=True)


class _Segment:
    """Audio without a break: from the beginning, a flush or an interruption to the next one."""

    def __init__(self, first_frame: int, feed: AudioFeed) -> None:
        self._feed, self._first = feed, first_frame
        self._frames = 0
        self._audio = MonoBuffer()
        self._pushed: deque[tuple[int, int, float]] = deque()
        """First sample of each chunk that fills no gap, that after its last, and the time."""
        self._resampler: Any = None
        self._mel_audio = MelAudio()
        self._mel: Mel = np.empty((DEFAULT_MEL.n_mels, 0), np.float32)
        self._pauses: Pauses = np.empty(0, np.bool_)
        self._begin = 0
        """First mel column in memory."""

    @property
    def next_frame(self) -> int:
        """Number of the next frame."""
        return self._first + self._frames

    def push(self, samples: Samples, *, is_idle: bool = False) -> list[AudioFrame]:
        if not self._audio.end and not len(samples):
            return []
        if not self._audio.end:
            assert self._feed.sample_rate is not None
            self._resampler = _resampler(self._feed.sample_rate, DEFAULT_MEL.sample_rate)
        if not is_idle and len(samples):
            self._pushed.append((self._audio.end, self._audio.end + len(samples), monotonic()))
        self._audio.append(samples)
        self._mel_audio.push(samples if self._resampler is None else self._resampler.resample_chunk(samples))
        return self._complete(None)

    def finish(self) -> list[AudioFrame]:
        """Return the remaining frames, followed by silence."""
        if not self._audio.end:
            return []
        rate = self._feed.sample_rate
        assert rate is not None
        count = math.ceil(self._audio.end * self._feed.fps / rate)
        self._audio.append(np.zeros(self._end_of(count - 1) - self._audio.end, np.float32))
        if self._resampler is not None:
            self._mel_audio.push(self._resampler.resample_chunk(_NONE, last=True))
        last = (self._feed.start_of(count - 1) + _WINDOW) * DEFAULT_MEL.hop + DEFAULT_MEL.n_fft
        self._mel_audio.push(np.zeros(max(0, last - self._mel_audio.samples), np.float32))
        return self._complete(count)

    def hurry(self) -> list[AudioFrame]:
        """Return the frames whose audio is complete; their windows end with the last mel column, repeated."""
        frames = []
        while self._audio.end and self._end_of(self._frames) <= self._audio.end:
            start = self._feed.start_of(self._frames)
            ready = min(start + _WINDOW - self._mel_audio.taken, self._mel_audio.ready)
            if ready > 0:
                self._append(self._mel_audio.take(ready), keep_from=start - _HISTORY)
            if not self._mel.shape[1]:
                break
            frames.append(self._frame(start, to_int16(self._audio.take(self._end_of(self._frames)))))
            self._frames += 1
        return frames

    def _complete(self, count: int | None) -> list[AudioFrame]:
        """Return the frames whose windows are complete, up to a number of frames."""
        frames = []
        while count is None or self._frames < count:
            start = self._feed.start_of(self._frames)
            missing = start + _WINDOW - self._mel_audio.taken
            end = self._end_of(self._frames)
            if missing > self._mel_audio.ready or end > self._audio.end:
                break
            if missing > 0:
                # Always the same columns, so that the result does not depend on the chunks.
                self._append(self._mel_audio.take(missing), keep_from=start - _HISTORY)
            frames.append(self._frame(start, to_int16(self._audio.take(end))))
            self._frames += 1
        return frames

    def _frame(self, start: int, audio: NDArray[np.int16]) -> AudioFrame:
        columns = np.minimum(np.arange(start, start + _WINDOW) - self._begin, self._mel.shape[1] - 1)
        window = self._mel[:, columns]
        weights = rest_weights(self._pauses[: columns[-1] + 1])[columns]
        is_silent = bool((weights == 1).all())
        mel = with_silence(window, weights)
        return AudioFrame(self.next_frame, mel, audio, is_silent, self._time_of(self._frames))

    def _time_of(self, frame: int) -> float | None:
        """Return the time at which the audio of a frame was pushed. Frames must be in ascending order."""
        while self._pushed and self._pushed[0][1] <= self._end_of(frame - 1):
            self._pushed.popleft()
        is_idle = not self._pushed or self._pushed[0][0] >= self._end_of(frame)
        return None if is_idle else self._pushed[0][2]

    def _append(self, mel: Mel, keep_from: int) -> None:
        drop = max(keep_from - self._begin, 0)
        self._mel = np.concatenate([self._mel[:, drop:], mel], axis=1)
        self._pauses = np.concatenate([self._pauses[drop:], self._feed.pauses_of(mel)])
        self._begin += drop

    def _end_of(self, frame: int) -> int:
        """Return the sample after the last one of a frame of this segment."""
        rate = self._feed.sample_rate
        assert rate is not None
        return math.floor((frame + 1) * rate / self._feed.fps)


class MonoBuffer:
    """Samples that are appended in any number, and taken in order."""

    def __init__(self) -> None:
        self._parts: list[Samples] = []
        self._begin = self.end = 0

    def append(self, samples: Samples) -> None:
        """Append samples."""
        self._parts.append(samples)
        self.end += len(samples)

    def take(self, end: int) -> Samples:
        """Return the samples up to a position, counted from the first one ever."""
        joined = self._parts[0] if len(self._parts) == 1 else np.concatenate(self._parts)
        taken, rest = np.split(joined, [end - self._begin])
        self._parts, self._begin = [rest], end
        return taken


def _resampler(rate: int, target: int) -> Any:
    """Return a streaming resampler of mono audio; None if the rates are equal."""
    return None if rate == target else soxr.ResampleStream(rate, target, 1, dtype="float32", quality="HQ")
