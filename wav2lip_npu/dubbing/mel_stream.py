"""Compute the mel of an output's audio while decoding it, and the pauses of the whole recording.

The audio is decoded twice, because whether a column is a pause depends on the whole recording. Between the
passes only the pauses are stored, 80 bytes per second of audio.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Executor, Future
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.dubbing.pauses import Pauses, find_pauses, loudness, rest_weights, with_silence
from wav2lip_npu.media.audio_mix import AudioMix
from wav2lip_npu.media.audio_reader import AudioInfo, Samples, read_mono
from wav2lip_npu.mel import DEFAULT_MEL, Mel, MelReader, mel_blocks


class MelStream:
    """Mel windows of the frames of one output, in order, and the pauses of its audio.

    While the first frames are decoded and tracked, `pool` finds the pauses. In pauses at `pause_threshold`,
    see `find_pauses`, the windows contain the mel of silence; with None they contain the mel of the
    recording. In an endless stream, silence follows the audio.
    """

    def __init__(
        self,
        audio: AudioInfo,
        fps: Fraction,
        shift: float,
        pool: Executor,
        *,
        pause_threshold: float | None,
        is_endless: bool = False,
    ) -> None:
        self.fps, self.shift = fps, shift
        self._audio, self._is_endless = audio, is_endless
        self._closed = threading.Event()
        self._pauses: Future[Pauses] | None = None
        if pause_threshold is not None:
            self._pauses = pool.submit(self._find_pauses, pause_threshold)
        self._blocks = self._read_blocks(_silence() if is_endless else ())
        self._reader = MelReader(self._blocks if self._pauses is None else self._rested(self._blocks))

    def window(self, index: int) -> Mel:
        """Return the mel window float32 [80, 16] of a frame. Call it in one thread, with frames in order.

        Raises `MediaError` if the audio can no longer be read.
        """
        return self._reader.window(index, self.fps, self.shift)

    def pauses(self) -> Pauses:
        """Wait for the pauses of the whole audio. Raises `MediaError` if the audio can no longer be read."""
        assert self._pauses is not None
        return self._pauses.result()

    def cancel(self) -> None:
        """Cancel the search for pauses, so that `pauses` returns soon."""
        self._closed.set()

    def close(self) -> None:
        """Close the audio file and cancel the search for pauses. No call of `window` may be running."""
        self.cancel()
        self._blocks.close()

    def _rested(self, blocks: Iterable[Mel]) -> Iterator[Mel]:
        """Yield the mel, with the mel of silence in pauses."""
        weights = rest_weights(self.pauses())
        first = 0
        for block in blocks:
            some = weights[first : first + block.shape[1]]
            first += block.shape[1]
            yield with_silence(block, np.pad(some, (0, block.shape[1] - len(some)), constant_values=1))

    def _find_pauses(self, threshold: float) -> Pauses:
        levels: list[NDArray[np.float32]] = []
        with contextlib.closing(self._read_blocks()) as blocks:
            for block in blocks:
                if self._closed.is_set():
                    return np.zeros(DEFAULT_MEL.columns_per_window, np.bool_)
                levels.append(loudness(block))
        has_gaps = isinstance(self._audio, AudioMix)
        pauses = find_pauses(np.concatenate(levels), threshold, has_gaps=has_gaps)
        more = DEFAULT_MEL.columns_per_window if self._is_endless else 0
        return np.append(pauses, np.ones(more, np.bool_))

    def _read_blocks(self, more: Iterable[Samples] = ()) -> Generator[Mel, None, None]:
        """Yield the mel of the audio, followed by more samples."""
        with contextlib.closing(read_mono(self._audio)) as audio:
            yield from mel_blocks(itertools.chain(_padded(audio), more))


def _silence() -> Iterator[Samples]:
    return itertools.repeat(np.zeros(DEFAULT_MEL.sample_rate, np.float32))


def _padded(chunks: Iterable[Samples]) -> Iterator[Samples]:
    """Yield the chunks, followed by silence if they are shorter than a mel window."""
    samples = 0
    for chunk in chunks:
        samples += len(chunk)
        yield chunk
    yield np.zeros(max(0, DEFAULT_MEL.hop * DEFAULT_MEL.columns_per_window - samples), np.float32)
