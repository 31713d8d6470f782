"""Faces of several speakers in each frame of an earlier dub, so that a second one needs no detection."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.faces.find_speakers import Tracked
from wav2lip_npu.faces.memory import COLUMNS, read_row, write_row
from wav2lip_npu.media.video_reader import Frame
from wav2lip_npu.parallel.threads import close_items

Rows = NDArray[np.float32]
"""float32 [frames, speakers, 15], a row as in `FaceMemory`."""


class TrackStore(Protocol):
    """Keeps the faces of dubs by what they depend on."""

    def read(self, details: Any) -> Rows | None:
        """Return the faces of an earlier dub with equal details, which are JSON; None if there are none."""

    def write(self, details: Any, rows: Rows) -> None:
        """Keep the faces of a dub."""


def recalled(frames: Iterable[Frame], rows: Rows) -> Iterator[Tracked]:
    """Yield frames with the faces of an earlier dub; later frames have none."""
    none = np.full(rows.shape[1:], np.nan, np.float32)
    with contextlib.ExitStack() as stack:
        stack.callback(close_items, frames)
        for frame in frames:
            known = rows[frame.index] if frame.index < len(rows) else none
            yield tuple(read_row(frame, row) for row in known)
            del frame


class Recorder:
    """Records the faces of a dub."""

    def __init__(self, speakers: int) -> None:
        self._rows: Rows = np.empty((0, speakers, COLUMNS), np.float32)
        self._count = 0

    @property
    def rows(self) -> Rows:
        """The faces so far."""
        return self._rows[: self._count]

    def record(self, tracked: Iterator[Tracked]) -> Iterator[Tracked]:
        """Yield the frames, and note their faces."""
        with contextlib.ExitStack() as stack:
            stack.callback(close_items, tracked)
            for item in tracked:
                if self._count == len(self._rows):
                    more = np.empty((256 + len(self._rows) // 2, *self._rows.shape[1:]), np.float32)
                    self._rows = np.concatenate([self._rows, more])
                for row, one in zip(self._rows[self._count], item, strict=True):
                    write_row(row, one)
                self._count += 1
                yield item
                del item
