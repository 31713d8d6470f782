"""Which face is wanted in each frame of a video: a plan, and the tracking of the faces that it names."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.faces.detection import MIN_SCORE, Detection, overlap
from wav2lip_npu.faces.scene_cuts import SceneCuts
from wav2lip_npu.faces.tracker import Select, TrackedFrame
from wav2lip_npu.media.video_reader import Frame
from wav2lip_npu.media.yuv_image import Box, YuvImage

_SAME = 0.3
"""Overlap from which a detected face is the one of the plan."""
_STEP = Fraction(1, 25)
"""Seconds by which a span may end after its shot: the distance of the frames from which a plan is made."""


class Stage(Protocol):
    """Takes new frames one by one; yields each once, in order, now or later."""

    def push(self, frame: Frame) -> Iterator[TrackedFrame]:
        """Add the next frame; yield the frames that are complete."""
        ...

    def flush(self) -> Iterator[TrackedFrame]:
        """Yield all pending frames; the next frame starts a new scene."""
        ...


@dataclass(frozen=True)
class PlannedSpan:
    """A time in which one face is wanted."""

    start: Fraction
    """Seconds from the beginning of the video."""
    end: Fraction
    seconds: NDArray[np.float64] = field(repr=False)
    """Times of `boxes`, [K]."""
    boxes: NDArray[np.float32] = field(repr=False)
    """Places of the face, [K, 4]."""

    def box(self, seconds: Fraction) -> Box:
        """Return the place of the face at a time."""
        after = min(int(np.searchsorted(self.seconds, float(seconds))), len(self.boxes) - 1)
        nearer = after if after == 0 or self._is_nearer(after, float(seconds)) else after - 1
        box: Box = self.boxes[nearer]
        return box

    def _is_nearer(self, after: int, seconds: float) -> bool:
        return bool(self.seconds[after] - seconds <= seconds - self.seconds[after - 1])


class FacePlan:
    """The wanted faces of a video, at the frame rate of a dub. Spans are in order, and do not overlap."""

    def __init__(self, spans: Sequence[PlannedSpan], fps: Fraction) -> None:
        self._spans, self._fps = spans, fps
        self._starts = [span.start for span in spans]

    def number(self, source: int) -> int | None:
        """Return the number of the span of a frame of the video; None if no face is wanted."""
        position = bisect_right(self._starts, source / self._fps) - 1
        return position if position >= 0 and source / self._fps < self._spans[position].end else None

    def is_ending(self, source: int) -> bool:
        """Return whether a span ends so soon after a frame of the video that a cut there is its end."""
        number = self.number(source)
        return number is not None and self._spans[number].end - source / self._fps < _STEP

    def box(self, source: int) -> Box | None:
        """Return the place of the face that is wanted in a frame of the video."""
        number = self.number(source)
        return None if number is None else self._spans[number].box(source / self._fps)


class PlannedFaces:
    """Tracks the faces of a plan; `tracking` returns what tracks one face, with a choice among several."""

    def __init__(self, plan: FacePlan, tracking: Callable[[Select], Stage]) -> None:
        self._plan, self._tracker = plan, tracking(self._select)
        self._cuts = SceneCuts()
        self._number: int | None = None
        self._ended: tuple[int | None, int] | None = None
        """The span that a cut has ended, and the frame of the video after the cut."""
        self._wanted: Box | None = None
        self._first_of_scene: set[int] = set()
        """Indices of pending frames at which a scene begins with a face."""

    def push(self, frame: Frame) -> Iterator[TrackedFrame]:
        """Add the next frame; yield the frames that are complete."""
        is_cut = self._cuts.is_cut(frame.yuv)
        number = self._plan.number(frame.source)
        if is_cut and number == self._number and self._plan.is_ending(frame.source):
            self._ended = number, frame.source
        if self._ended is not None and self._ended[0] == number and self._ended[1] <= frame.source:
            number = None
        if number != self._number:
            yield from self._marked(self._tracker.flush())
            self._number = number
            if is_cut and number is not None:  # the tracker does not know the frame before
                self._first_of_scene.add(frame.index)
        self._wanted = None if number is None else self._plan.box(frame.source)
        if self._wanted is None:
            yield TrackedFrame(frame, None, is_cut)
        else:
            yield from self._marked(self._tracker.push(frame))

    def flush(self) -> Iterator[TrackedFrame]:
        """Yield all pending frames; the next frame starts a new scene."""
        self._cuts = SceneCuts()
        yield from self._marked(self._tracker.flush())

    def _marked(self, items: Iterator[TrackedFrame]) -> Iterator[TrackedFrame]:
        """Yield the frames; mark those at which a scene begins."""
        for item in items:
            if item.frame.index in self._first_of_scene:
                self._first_of_scene.remove(item.frame.index)
                item = replace(item, cut=True)
            yield item
            del item

    def _select(self, detections: Sequence[Detection], yuv: YuvImage) -> list[Detection]:
        """Return the face that is wanted in this frame, if it is detected."""
        wanted = self._wanted
        if wanted is None:
            return []
        certain = [face for face in detections if face.score >= MIN_SCORE]
        near = max(certain, key=lambda face: overlap(face.box, wanted), default=None)
        return [] if near is None or overlap(near.box, wanted) < _SAME else [near]
