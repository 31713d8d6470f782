"""Find one face in each frame of a video: the options, the choice among several faces, and the padding."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from wav2lip_npu.errors import FaceError, UsageError
from wav2lip_npu.faces import tracker
from wav2lip_npu.faces.detection import MIN_SCORE, Detection, Detector, search_frames
from wav2lip_npu.faces.detectors import DetectorName
from wav2lip_npu.faces.face_plan import FacePlan, PlannedFaces, Stage
from wav2lip_npu.faces.memory import FaceMemory
from wav2lip_npu.faces.optical_flow import Pose
from wav2lip_npu.faces.scene_cuts import SceneCuts
from wav2lip_npu.faces.tracker import FaceTracker, Search, Select, TrackedFrame
from wav2lip_npu.media.video_reader import Frame
from wav2lip_npu.media.yuv_image import Box, YuvImage
from wav2lip_npu.options import check_range, check_types, nested_by_name
from wav2lip_npu.parallel.threads import close_items

SPEAKING = "speaking"
_MIN_VISIBLE = 0.25
"""Minimum share of a box inside the frame."""
_MOUTH = np.array([0.5, 0.85], np.float32)
"""Lower edge of the mouth at its centre, x and y as fractions of the box."""
_NO_BOX = (-1, -1, -1, -1)
_MIN_SIDE = 4
"""Pixels. Smaller boxes are ignored."""
_MAX_PIXELS = 10_000
_MAX_BATCH = 4096
_COSTS: dict[str, Callable[[Pose, int, int], float]] = {
    "largest": lambda pose, width, height: -pose.side,
    "left": lambda pose, width, height: pose.x,
    "right": lambda pose, width, height: -pose.x,
    "center": lambda pose, width, height: math.hypot(pose.x - width / 2, pose.y - height / 2),
}
"""Cost functions of a pose and the frame size, by `face_select`. The face with the lowest cost is chosen."""


@nested_by_name
@dataclass(frozen=True, kw_only=True)
class FaceOptions:
    """Options for detecting and tracking the face.

    Raises:
        UsageError: A value is unknown or out of range.

    """

    detector: DetectorName = "auto"
    """Face detector. auto: retinaface. hog: dlib's, for frontal faces. s3fd: the original's, needs a file."""
    face_select: str = "largest"
    """Face to use if there are several: largest, left, right, center, X,Y, a point on it in pixels, or
    speaking: in a dub, that of whoever speaks in the film, by its own sound. See docs/speakers.md."""
    no_face: Literal["keep", "error"] = "keep"
    """What to do with frames without a face: keep them unchanged, or stop with an error."""
    pads: tuple[int, int, int, int] = (0, 10, 0, 0)
    """Pixels added to the detected box: top bottom left right."""
    box: tuple[int, int, int, int] = _NO_BOX
    """Constant face box in pixels, instead of detection: top bottom left right. It is not padded."""
    nosmooth: bool = False
    """Detect the face in every frame and do not smooth the boxes."""
    face_det_batch_size: int = 16
    """Frames per detector call with --nosmooth."""

    def __post_init__(self) -> None:
        """Check the values."""
        check_types(self)
        if self.face_select not in (*_COSTS, SPEAKING) and self.point is None:
            raise UsageError(
                f"unknown --face_select {self.face_select!r}. "
                f"Pass {', '.join((*_COSTS, SPEAKING))}, or X,Y: a point on the face, such as 640,360."
            )
        check_range(self, "face_det_batch_size", 1, _MAX_BATCH)
        check_range(self, "pads", -_MAX_PIXELS, _MAX_PIXELS)
        check_range(self, "box", -_MAX_PIXELS, _MAX_PIXELS)
        top, bottom, left, right = self.box
        if self.has_constant_box and (top >= bottom or left >= right):
            raise UsageError(
                f"--box {top} {bottom} {left} {right} is empty. Pass TOP BOTTOM LEFT RIGHT in pixels."
            )

    @property
    def has_constant_box(self) -> bool:
        """Whether `box` replaces detection."""
        return self.box[0] != -1

    @property
    def point(self) -> tuple[float, float] | None:
        """The X,Y of `face_select`; None if it is a word."""
        try:
            x, y = (float(part) for part in self.face_select.split(","))
        except ValueError:
            return None
        return (x, y) if math.isfinite(x) and math.isfinite(y) else None


def find_faces(
    frames: Iterable[Frame],
    detector: Detector,
    options: FaceOptions,
    memory: FaceMemory | None = None,
    plan: FacePlan | None = None,
) -> Iterator[TrackedFrame]:
    """Yield each frame with the padded box of its face, or None; order and number of frames are kept.

    Holds at most `tracker.LOOK_AHEAD` frames, fewer if they are large. A source that is repeated or in
    `memory` gets its earlier box without detection. Closes `frames` at the end if it has a `close` method.
    Raises `FaceError` when `options.box` is not inside a frame.
    """
    memory = FaceMemory() if memory is None else memory
    finder = FaceFinder(detector, options, memory, plan=plan)
    with contextlib.ExitStack() as stack:
        stack.callback(close_items, frames)
        for frame in frames:
            yield from finder.push(frame)
            del frame
        yield from finder.flush()
        memory.is_complete = True


class FaceFinder:
    """Finds one face in frames that are pushed one by one; yields each once, in order, now or later.

    Args:
        detector: A face detector.
        options: Options of the face.
        memory: Boxes detected earlier, which are recalled, and to which those of new frames are added.
        select: Chooses the face instead of `options.face_select`.
        search: Detects all faces of a frame, instead of the detector.
        plan: The faces that are wanted, instead of `options.face_select`.

    """

    def __init__(
        self,
        detector: Detector,
        options: FaceOptions,
        memory: FaceMemory,
        select: Select | None = None,
        search: Search | None = None,
        plan: FacePlan | None = None,
    ) -> None:
        self._options, self._memory = options, memory

        def tracking(select: Select) -> Stage:
            if options.nosmooth:
                return _EveryFrame(detector, options, select)
            return FaceTracker(detector, select, search)

        if options.has_constant_box:
            self._stage: Stage = _ConstantBox(options.box)
        elif plan is not None:
            self._stage = PlannedFaces(plan, tracking)
        elif select is None and options.face_select == SPEAKING:
            raise UsageError(f"--face_select {SPEAKING} needs the sound of a film. Pass largest, or X,Y.")
        else:
            self._stage = tracking(select or functools.partial(_select, options))

    def push(self, frame: Frame) -> Iterator[TrackedFrame]:
        """Add the next frame; yield the frames that are complete."""
        memory = self._memory
        if memory.knows(frame.source):
            yield from self.flush()
            yield memory.recall(frame)
        else:
            memory.expect(frame.source)
            yield from self._finished(self._stage.push(frame))

    def flush(self) -> Iterator[TrackedFrame]:
        """Yield all pending frames; the next frame starts a new scene."""
        yield from self._finished(self._stage.flush())

    def _finished(self, items: Iterator[TrackedFrame]) -> Iterator[TrackedFrame]:
        for item in items:
            box = item.box
            if box is not None and not self._options.has_constant_box:
                box = padded(box, self._options, item.frame.yuv)
            landmarks = None if box is None else item.landmarks
            yield self._memory.store(TrackedFrame(item.frame, box, item.cut, landmarks))
            del item  # the consumer decides how long a frame is held


def _select(options: FaceOptions, detections: Sequence[Detection], planes: YuvImage) -> list[Detection]:
    return rank(detections, options, planes.width, planes.height)


class _ConstantBox:
    """`FaceOptions.box` for every frame."""

    def __init__(self, box: tuple[int, int, int, int]) -> None:
        self._top, self._bottom, self._left, self._right = box
        self._cuts = SceneCuts()

    def push(self, frame: Frame) -> Iterator[TrackedFrame]:
        height, width = frame.yuv.height, frame.yuv.width
        if not (0 <= self._top < self._bottom <= height and 0 <= self._left < self._right <= width):
            raise FaceError(
                f"--box {self._top} {self._bottom} {self._left} {self._right} is empty or outside the frame "
                f"of {width}x{height}. Pass TOP BOTTOM LEFT RIGHT in pixels within it."
            )
        box = np.array([self._left, self._top, self._right, self._bottom], np.float32)
        yield TrackedFrame(frame, box, self._cuts.is_cut(frame.yuv))

    def flush(self) -> Iterator[TrackedFrame]:
        yield from ()


class _EveryFrame:
    """The detector's own boxes, frame by frame."""

    def __init__(self, detector: Detector, options: FaceOptions, select: Select) -> None:
        self._detector, self._options, self._select = detector, options, select
        self._pending: list[tuple[Frame, bool]] = []
        self._cuts = SceneCuts()

    def push(self, frame: Frame) -> Iterator[TrackedFrame]:
        self._pending.append((frame, self._cuts.is_cut(frame.yuv)))
        nbytes = sum(pending.yuv.nbytes for pending, _ in self._pending)
        if len(self._pending) >= self._options.face_det_batch_size or nbytes >= tracker.LOOK_AHEAD_BYTES:
            yield from self.flush()

    def flush(self) -> Iterator[TrackedFrame]:
        pending, self._pending = self._pending, []
        detections = search_frames([frame.yuv for frame, _ in pending], self._detector)
        for (frame, cut), in_frame in zip(pending, detections, strict=True):
            ranked = self._select(in_frame, frame.yuv)
            if ranked:
                yield TrackedFrame(frame, ranked[0].box, cut, ranked[0].landmarks)
            else:
                yield TrackedFrame(frame, None, cut)


def rank(detections: Sequence[Detection], options: FaceOptions, width: int, height: int) -> list[Detection]:
    """Return the detections that are certainly faces, ordered by `options.face_select`."""

    def cost(detection: Detection) -> float:
        pose = Pose.of_box(detection.box)
        if options.point is None:
            return _COSTS[options.face_select](pose, width, height)
        x, y = options.point
        x1, y1, x2, y2 = detection.box
        is_inside = x1 <= x < x2 and y1 <= y < y2
        return math.hypot(pose.x - x, pose.y - y) + (0 if is_inside else width + height)

    return sorted((detection for detection in detections if detection.score >= MIN_SCORE), key=cost)


def padded(box: Box, options: FaceOptions, planes: YuvImage) -> Box | None:
    """Return the box with `options.pads`; None if most of it, or the mouth, is outside the frame.

    Pads are clipped to the frame. The box of a face that is partly outside is not, because eyes and mouth
    must be at the positions that the generator expects.
    """
    top, bottom, left, right = options.pads
    pads = np.array([left, top, right, bottom], np.float32)
    limit = np.array([planes.width, planes.height], np.float32)
    low, high = box[:2] - pads[:2], box[2:] + pads[2:]
    low = np.where(pads[:2] > 0, np.minimum(np.maximum(low, 0), box[:2]), low)
    high = np.where(pads[2:] > 0, np.maximum(np.minimum(high, limit), box[2:]), high)
    sides = high - low
    visible = np.minimum(high, limit) - np.maximum(low, 0)
    mouth = low + _MOUTH * sides
    if (
        min(*sides, *visible) < _MIN_SIDE
        or np.prod(visible) <= _MIN_VISIBLE * np.prod(sides)
        or (mouth < 0).any()
        or (mouth > limit).any()
    ):
        return None
    return np.concatenate([low, high]).astype(np.float32)
