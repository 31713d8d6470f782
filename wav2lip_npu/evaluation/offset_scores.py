"""Compare each window of faces with the audio from 15 frames before to 15 frames after it, in one pass.

Features of faces and audio are computed once and held only as long as they are needed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from wav2lip_npu import signals
from wav2lip_npu.training.sync_offset import MAX_OFFSET

OFFSETS = 2 * MAX_OFFSET + 1
Score = Callable[[Tensor, Tensor], Tensor]
"""Returns scores [M, 31] of faces [M, 1, D] and audio [M, 31, D]."""
Table = NDArray[np.float32]
"""float32 [N, 31]: scores of N windows by offset; column 15 + k is the audio that comes k frames later"""


class AudioStrip:
    """Features of the audio windows of consecutive frames, from a stream of batches [m, D]."""

    def __init__(self, batches: Iterator[Tensor]) -> None:
        self._batches: Iterator[Tensor] | None = batches
        self._held: Tensor | None = None
        self._begin = 0

    def around(self, numbers: Sequence[int]) -> tuple[Tensor, NDArray[np.bool_]] | None:
        """Return the features [M, 31, D] around windows in ascending order, and which of them exist [M, 31].

        Features that do not exist are 0. The result is None if the audio is shorter than a window.
        """
        wanted = np.asarray(numbers)[:, None] + np.arange(-MAX_OFFSET, MAX_OFFSET + 1)
        self._read_to(int(wanted.max()) + 1, int(wanted.min()))
        held = self._held
        if held is None:
            return None
        end = self._begin + len(held)
        exists = (wanted >= 0) & (wanted < end)
        rows = torch.from_numpy((wanted - self._begin).clip(0, len(held) - 1)).to(held.device)
        mask = torch.from_numpy(exists).to(held.device, held.dtype)
        return held[rows] * mask[..., None], exists

    def close(self) -> None:
        """Close the stream and the file that it reads."""
        if isinstance(self._batches, Generator):
            self._batches.close()
        self._batches = self._held = None

    def _read_to(self, end: int, keep: int) -> None:
        """Read batches until `end`; drop the windows before `keep`."""
        while self._batches is not None and (self._held is None or self._begin + len(self._held) < end):
            batch = next(self._batches, None)
            if batch is None:
                self._batches = None
                return
            dropped = 0 if self._held is None else min(max(0, keep - self._begin), len(self._held))
            self._held = batch if self._held is None else torch.cat([self._held[dropped:], batch])
            self._begin += dropped


class OffsetScores:
    """Scores of windows of faces at each offset of the audio. Add the windows in order, then `finish`."""

    def __init__(self, audio: Iterator[Tensor], score: Score) -> None:
        self._audio, self._score = AudioStrip(audio), score
        self._tables: list[Table] = []
        self._complete: list[NDArray[np.bool_]] = []
        self._numbers: list[NDArray[np.int64]] = []

    def add(self, numbers: Sequence[int], faces: Tensor, last: int | None = None) -> None:
        """Add features [M, D] of windows that start at these frames, after those added before.

        Audio after the window `last` counts as missing.
        """
        if not numbers:
            return
        signals.check()
        around = self._audio.around(numbers)
        if around is None:
            return
        audio, exists = around
        if last is not None:
            after = np.asarray(numbers)[:, None] + np.arange(-MAX_OFFSET, MAX_OFFSET + 1) > last
            audio = audio.masked_fill(torch.from_numpy(after).to(audio.device)[..., None], 0)
            exists &= ~after
        self._tables.append(self._score(faces[:, None], audio).float().cpu().numpy())
        self._complete.append(np.asarray(exists.all(axis=1)))
        self._numbers.append(np.asarray(numbers, np.int64))

    def close(self) -> None:
        """Close the audio."""
        self._audio.close()

    def finish(self) -> tuple[NDArray[np.int64], Table, NDArray[np.bool_]]:
        """Return the first frame of each window, its scores, and whether it has audio at all offsets."""
        if not self._tables:
            return np.empty(0, np.int64), np.empty((0, OFFSETS), np.float32), np.empty(0, np.bool_)
        return (np.concatenate(self._numbers), np.concatenate(self._tables), np.concatenate(self._complete))


def distances(faces: Tensor, audio: Tensor) -> Tensor:
    """Return the Euclidean distances [M, 31] of the published evaluation."""
    return functional.pairwise_distance(faces, audio)


def dot_products(faces: Tensor, audio: Tensor) -> Tensor:
    """Return the cosines [M, 31] of unit embeddings."""
    return (faces * audio).sum(dim=-1)


class Delayed:
    """Holds back the last windows, whose number is known only at the end of a track."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._held: deque[tuple[int, Tensor]] = deque()

    def push(self, number: int, features: Tensor) -> list[tuple[int, Tensor]]:
        """Add windows; return those that are no longer among the last `size`."""
        self._held.extend((number + row, feature) for row, feature in enumerate(features))
        return [self._held.popleft() for _ in range(len(self._held) - self._size)]

    def rest(self, count: int) -> list[tuple[int, Tensor]]:
        """Return the windows that were held back and are before number `count`."""
        rest = [item for item in self._held if item[0] < count]
        self._held.clear()
        return rest
