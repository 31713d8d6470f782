"""Find one face in each frame of a video: `Frame` in, `Faced` out, lazily.

What the user may choose, what comes of frames that were seen before, and the pads. How a face is
followed is in `tracking.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.errors import FaceError
from wav2lip_npu.faces import tracker
from wav2lip_npu.faces.detectors import NAMES, Detection, Detector
from wav2lip_npu.faces.tracker import Cuts, Followed, Follower, pose_of, search
from wav2lip_npu.media.video_reader import Frame
from wav2lip_npu.media.yuv_image import Box, YuvImage

START_SCORE = 0.5
"""The least score of a face that is found anew."""
_MIN_VISIBLE = 0.25


@dataclass(frozen=True, kw_only=True)
class FaceOptions:
    """How the face is found."""

    detector: str = "auto"
    """auto (s3fd when its weights are there, else hog), s3fd, hog, or another of face_alignment by name."""
    face_select: str = "largest"
    """Whose face, of several: largest, left, right, center, or X,Y, a point on it; followed until a cut."""
    no_face: str = "keep"
    """Frames without a face: keep (they pass unchanged) or error."""
    pads: tuple[int, int, int, int] = (0, 10, 0, 0)
    """Pixels added to the found face: top bottom left right."""
    box: tuple[int, int, int, int] = (-1, -1, -1, -1)
    """A constant face box, top bottom left right in pixels, instead of detection; pads are not added."""
    nosmooth: bool = False
    """Detect in every frame and take the boxes as they come."""
    face_det_batch_size: int = 16
    """Frames per detector call with nosmooth."""

    def check(self) -> None:
        """Raise `FaceError` when a value is unknown or out of range."""
        if self.detector not in NAMES:
            raise FaceError(f"unknown face detector {self.detector!r}. Choose one of: {', '.join(NAMES)}.")
        if self.no_face not in ("keep", "error"):
            raise FaceError(f"unknown --no_face {self.no_face!r}. Pass keep or error.")
        if self.face_select not in ("largest", "left", "right", "center") and self.point is None:
            raise FaceError(
                f"unknown --face_select {self.face_select!r}. "
                "Pass largest, left, right, center, or X,Y: a point on the face in pixels, as 640,360."
            )
        if self.face_det_batch_size < 1:
            raise FaceError(f"--face_det_batch_size {self.face_det_batch_size} is not at least 1.")

    @property
    def point(self) -> tuple[float, float] | None:
        """The X,Y of `face_select`, None for a word."""
        try:
            x, y = (float(part) for part in self.face_select.split(","))
        except ValueError:
            return None
        return (x, y) if math.isfinite(x) and math.isfinite(y) else None


@dataclass(frozen=True)
class Faced:
    """A frame, its face, and whether a new scene begins (a cut, or a jump in a looped video)."""

    frame: Frame
    box: Box | None
    cut: bool


class _Stage(Protocol):
    """Takes new frames one by one; gives each out once, in order, now or later."""

    def push(self, frame: Frame) -> Iterator[Followed]: ...

    def flush(self) -> Iterator[Followed]: ...


def find_faces(
    frames: Iterable[Frame], detector: Detector, options: FaceOptions, memory: FaceMemory | None = None
) -> Iterator[Faced]:
    """Each frame with the box of its face, pads included, or None; order and number are kept.

    Holds at most `tracking.LOOK_AHEAD` frames, fewer when they are large. A source that comes again, or that
    `memory` knows, gets the box that it had, without work. Raises `FaceError` when `options.box` is not
    inside a frame.
    """
    options.check()
    stage: _Stage
    constant = options.box[0] != -1
    if constant:
        stage = _Constant(options)
    elif options.nosmooth:
        stage = _EveryFrame(detector, options)
    else:
        stage = Follower(detector, lambda found, planes: rank(found, options, planes.width, planes.height))
    memory = FaceMemory() if memory is None else memory

    def finished(items: Iterator[Followed]) -> Iterator[Faced]:
        for frame, box, cut in items:
            if box is not None and not constant:
                box = finish(box, options, frame.yuv)
            yield memory.keep(Faced(frame, box, cut))

    try:
        for frame in frames:
            if memory.knows(frame.source):
                yield from finished(stage.flush())
                yield memory.again(frame)
            else:
                memory.expect(frame.source)
                yield from finished(stage.push(frame))
            del frame  # a frame that waits nowhere must not be held here
        yield from finished(stage.flush())
    finally:
        close = getattr(frames, "close", None)
        if close is not None:
            close()


class FaceMemory:
    """The boxes found, by source: a looped video or a still image, or the next dub, is searched once.

    `known` is what was found before, float32 [N, 5]: of each source in its order the box, NaN where there is
    no face, and 1 where a scene begins, else 0. `saw_all` says whether these are all sources of the video.
    """

    def __init__(self, known: NDArray[np.float32] | None = None, *, saw_all: bool = False) -> None:
        rows = np.empty((0, 5), np.float32) if known is None else known
        self._rank = {source: source for source in range(len(rows))}
        self._boxes: list[Box | None] = [None if np.isnan(row[0]) else row[:4].copy() for row in rows]
        self._cuts = [bool(row[4]) for row in rows]
        self._shown = -1
        self._jumps: set[int] = set()
        self.saw_all = saw_all
        """Whether the video began anew, so that no other source will come."""
        self._knew = len(rows), saw_all

    @property
    def has_learnt(self) -> bool:
        """Whether more is known than in the beginning."""
        known, saw_all = self._knew
        return len(self._boxes) > known or (self.saw_all and not saw_all)

    def expect_frames(self, count: int) -> None:
        """Forget what is known when it ends before this number of frames.

        To go on in the middle would give other boxes than to begin at the beginning.
        """
        if len(self._boxes) < count and not self.saw_all:
            self._rank.clear()
            self._boxes.clear()
            self._cuts.clear()

    def found(self) -> NDArray[np.float32]:
        """What a later memory may begin with: `known` of it."""
        rows = np.full((len(self._boxes), 5), np.nan, np.float32)
        for row, box, cut in zip(rows, self._boxes, self._cuts, strict=True):
            if box is not None:
                row[:4] = box
            row[4] = cut
        return rows

    def knows(self, source: int) -> bool:
        """Whether a frame of this source was found before."""
        return source in self._rank

    def expect(self, source: int) -> None:
        """A new source: it comes after all others, so it follows a jump unless the last was shown last."""
        rank = len(self._rank)
        if self._shown != rank - 1:
            self._jumps.add(rank)
        self._rank[source] = self._shown = rank

    def keep(self, faced: Faced) -> Faced:
        """What was found of a new source, as it is to be given out."""
        jumped = len(self._boxes) in self._jumps
        self._boxes.append(faced.box)
        self._cuts.append(faced.cut)
        return Faced(faced.frame, faced.box, True) if jumped else faced

    def again(self, frame: Frame) -> Faced:
        """The face of a source that is known."""
        rank, before = self._rank[frame.source], self._shown
        self.saw_all = self.saw_all or rank <= before
        self._shown = rank
        step = rank - before
        # Backwards, the cut lies between the same two pictures: it belongs to the later of them.
        cut = abs(step) > 1 or (step != 0 and self._cuts[max(rank, before)])
        box = self._boxes[rank]
        return Faced(frame, None if box is None else box.copy(), cut)


class _Constant:
    """`options.box` for every frame."""

    def __init__(self, options: FaceOptions) -> None:
        self._top, self._bottom, self._left, self._right = options.box
        self._cuts = Cuts()

    def push(self, frame: Frame) -> Iterator[Followed]:
        height, width = frame.yuv.height, frame.yuv.width
        if not (0 <= self._top < self._bottom <= height and 0 <= self._left < self._right <= width):
            given = f"{self._top} {self._bottom} {self._left} {self._right}"
            raise FaceError(
                f"--box {given} is empty or outside the frame of {width}x{height}. "
                "Pass TOP BOTTOM LEFT RIGHT in pixels within it."
            )
        box = np.array([self._left, self._top, self._right, self._bottom], np.float32)
        yield frame, box, self._cuts.between(frame.yuv)

    def flush(self) -> Iterator[Followed]:
        yield from ()


class _EveryFrame:
    """The detector's own boxes, frame by frame."""

    def __init__(self, detector: Detector, options: FaceOptions) -> None:
        self._detector, self._options = detector, options
        self._waiting: list[tuple[Frame, bool]] = []
        self._cuts = Cuts()

    def push(self, frame: Frame) -> Iterator[Followed]:
        self._waiting.append((frame, self._cuts.between(frame.yuv)))
        held = sum(each.yuv.nbytes for each, _ in self._waiting)
        if len(self._waiting) >= self._options.face_det_batch_size or held >= tracker.LOOK_AHEAD_BYTES:
            yield from self.flush()

    def flush(self) -> Iterator[Followed]:
        waiting, self._waiting = self._waiting, []
        found = search([frame.yuv for frame, _ in waiting], self._detector)
        for (frame, cut), detections in zip(waiting, found, strict=True):
            ranked = rank(detections, self._options, frame.yuv.width, frame.yuv.height)
            yield frame, ranked[0].box if ranked else None, cut


def rank(found: Sequence[Detection], options: FaceOptions, width: int, height: int) -> list[Detection]:
    """The faces that the detector is sure of, the one that `options.face_select` asks for first."""

    def cost(each: Detection) -> float:
        pose = pose_of(each.box)
        if options.point is not None:
            x, y = options.point
            inside = each.box[0] <= x < each.box[2] and each.box[1] <= y < each.box[3]
            return math.hypot(pose.x - x, pose.y - y) + (0 if inside else width + height)
        costs = {
            "largest": -pose.side,
            "left": pose.x,
            "right": -pose.x,
            "center": math.hypot(pose.x - width / 2, pose.y - height / 2),
        }
        return costs[options.face_select]

    return sorted((each for each in found if each.score >= START_SCORE), key=cost)


def finish(box: Box, options: FaceOptions, planes: YuvImage) -> Box | None:
    """The box with pads, clipped to the frame; None when most of it lies outside."""
    top, bottom, left, right = options.pads
    padded = box + np.array([-left, -top, right, bottom], np.float32)
    limit = np.array([planes.width, planes.height, planes.width, planes.height], np.float32)
    clipped = np.clip(padded, 0, limit).astype(np.float32)
    width, height = (float(side) for side in clipped[2:] - clipped[:2])
    whole = float(padded[2] - padded[0]) * float(padded[3] - padded[1])
    return clipped if min(width, height) >= 4 and width * height > _MIN_VISIBLE * whole else None
