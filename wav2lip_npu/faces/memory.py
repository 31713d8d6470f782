"""Faces of earlier frames, so that a looped video, a still image or a second dub needs no new detection."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.faces.tracker import TrackedFrame
from wav2lip_npu.media.video_reader import Frame

COLUMNS = 15
"""Values per frame."""
_BOX, _CUT, _LANDMARKS = slice(0, 4), 4, slice(5, COLUMNS)


class FaceMemory:
    """Boxes, landmarks and scene cuts by `Frame.source`.

    One dub uses it at a time, in the thread that tracks faces. Read it before or after the dub, not during.

    Args:
        known: `to_array()` of an earlier memory of the same video.
        is_complete: Whether `known` holds all frames of the video.

    """

    def __init__(self, known: NDArray[np.float32] | None = None, *, is_complete: bool = False) -> None:
        # One row per frame, see `to_array`; an object per box would take 25 MB per hour of video.
        self._rows = np.empty((0, COLUMNS), np.float32) if known is None else np.array(known, np.float32)
        self._count = len(self._rows)
        self._position = {source: source for source in range(self._count)}
        self._last = -1
        self._jumps: set[int] = set()
        self.is_complete = is_complete
        """Whether all frames of the video are known. Set when the video ends or starts over."""
        self._at_start = self._count, is_complete

    @property
    def has_grown(self) -> bool:
        """Whether frames were added since construction."""
        count, was_complete = self._at_start
        return self._count > count or (self.is_complete and not was_complete)

    def expect_frames(self, count: int) -> None:
        """Clear the memory if it has fewer frames than this.

        Tracking that starts in the middle would give other boxes than tracking from the first frame.
        """
        if self._count < count and not self.is_complete:
            self._position.clear()
            self._count = 0

    def to_array(self) -> NDArray[np.float32]:
        """Return float32 [N, 15]: of each source its box, 1 at a scene cut or else 0, and its landmarks.

        Without a face or landmarks, their values are NaN.
        """
        rows: NDArray[np.float32] = self._rows[: self._count].copy()
        return rows

    def knows(self, source: int) -> bool:
        """Return whether a frame of this source has been tracked."""
        return source in self._position

    def expect(self, source: int) -> None:
        """Append a new source; it follows a jump unless the previous frame was the last known source."""
        position = len(self._position)
        if self._last != position - 1:
            self._jumps.add(position)
        self._position[source] = self._last = position

    def store(self, tracked: TrackedFrame) -> TrackedFrame:
        """Store the box of a new source; return the frame, marked as a cut if it follows a jump."""
        jumped = self._count in self._jumps
        if self._count == len(self._rows):
            self._rows = np.concatenate([self._rows, np.empty((self._count + 256, COLUMNS), np.float32)])
        write_row(self._rows[self._count], tracked)
        self._count += 1
        return replace(tracked, cut=True) if jumped else tracked

    def recall(self, frame: Frame) -> TrackedFrame:
        """Return a frame of a known source with its box."""
        position, before = self._position[frame.source], self._last
        self.is_complete = self.is_complete or position <= before
        self._last = position
        step = position - before
        # Played backwards, the cut lies between the same two frames: it belongs to the later of them.
        cut = abs(step) > 1 or (step != 0 and bool(self._rows[max(position, before), _CUT]))
        return replace(read_row(frame, self._rows[position]), cut=cut)


def write_row(row: NDArray[np.float32], tracked: TrackedFrame) -> None:
    """Write the face of a frame to a row [15] of `FaceMemory.to_array`."""
    row[_BOX] = np.nan if tracked.box is None else tracked.box
    row[_CUT] = tracked.cut
    row[_LANDMARKS] = np.nan if tracked.landmarks is None else tracked.landmarks.ravel()


def read_row(frame: Frame, row: NDArray[np.float32]) -> TrackedFrame:
    """Return a frame with the face of a row [15]; a row of NaN has neither a face nor a cut."""
    box, landmarks = row[_BOX].copy(), row[_LANDMARKS].copy()
    return TrackedFrame(
        frame,
        None if np.isnan(box[0]) else box,
        bool(row[_CUT] > 0),
        None if np.isnan(landmarks[0]) else landmarks.reshape(5, 2),
    )
