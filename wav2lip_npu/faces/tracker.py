"""Track one face from frame to frame, at most `LOOK_AHEAD` frames behind the newest.

Detection is slow and its boxes jitter; optical flow is fast and precise but drifts. So the path of the face
is integrated from frame-to-frame motion (`optical_flow.move`), the detector runs every few frames, and a
robust mean of its boxes relative to the path, before and after the frame, places the box. Only the
difference from the path is averaged, so a moving head is neither smoothed nor delayed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.faces.detection import MIN_SIDE, Detection, Detector, Landmarks, overlap, search_frames
from wav2lip_npu.faces.optical_flow import Pose, move
from wav2lip_npu.faces.scene_cuts import SceneCuts
from wav2lip_npu.faces.track import MAX_GAP, Sighting, Track
from wav2lip_npu.media.video_reader import Frame
from wav2lip_npu.media.yuv_image import Box, YuvImage

Select = Callable[[Sequence[Detection], YuvImage], list[Detection]]
"""Returns the detections that are certainly faces, the selected one first."""

LOOK_AHEAD = 25
"""Frames read before the first is returned; fewer if they are large."""
LOOK_AHEAD_BYTES = 128 * 2**20
_MIN_LOOK_AHEAD = 3
_DETECT_EVERY = 10
"""Frames between two detections while tracking succeeds."""
_NEW_FRAMES, _NEW_DETECT_EVERY = 16, 5
"""The same for the first frames of a track."""
_RETRY_EVERY = 3
"""Frames between two detections while the face is not confirmed."""
_CROP = 1.7
"""A face is measured on a square crop of this many times its size."""
_ZOOM_RANGE, _SHIFT_RANGE = 1.2, 0.09
"""One step of a detector's pyramid, and one of its cells relative to the face."""
# Zoom and shift of the views: any number of multiples of these, modulo 1, fill a cube evenly (Roberts 2018).
_SPREAD = np.array([0.8191725134, 0.6710436067, 0.5497004779])


@dataclass(frozen=True)
class TrackedFrame:
    """A frame with its face."""

    frame: Frame
    box: Box | None
    """None without a face."""
    cut: bool
    """Whether a new scene begins: a cut, or a jump in a looped video."""
    landmarks: Landmarks | None = None
    """None without a face, with `FaceOptions.box`, and if the detector gives none."""


@dataclass
class _Pending:
    frame: Frame
    number: int
    cut: bool
    track: Track | None = None
    pose: Pose | None = None


class FaceTracker:
    """Tracks one face through each scene; `select` chooses it if there are several.

    Takes frames one by one and returns each once, in order, when enough later frames have arrived.
    """

    def __init__(self, detector: Detector, select: Select) -> None:
        self._detector, self._select = detector, select
        self._pending: deque[_Pending] = deque()
        self._number = 0
        self._views = 0
        self._restart()

    def _restart(self) -> None:
        """Discard the current scene and start a new one."""
        self._track: Track | None = None
        self._previous: _Pending | None = None
        self._velocity = (0.0, 0.0)
        self._next_detection = self._number
        self._lost: tuple[int, Box] | None = None
        self._others: list[Box] = []
        self._cuts = SceneCuts()

    def push(self, frame: Frame) -> Iterator[TrackedFrame]:
        """Add the next frame; yield the frames that are complete."""
        planes = frame.yuv
        may_be_cut = self._cuts.is_cut(planes)
        if min(planes.y.shape) < MIN_SIDE:
            yield from self.flush()
            yield TrackedFrame(frame, None, False)
            return
        pose = None
        if self._track is not None and self._previous is not None and self._previous.pose is not None:
            before = self._previous.frame.yuv.y
            if before.shape == planes.y.shape:
                pose = move(before, planes.y, self._previous.pose, self._velocity)
        cut = may_be_cut and pose is None
        if cut:
            cuts = self._cuts
            yield from self.flush()
            self._cuts = cuts
        now = _Pending(frame, self._number, cut)
        self._pending.append(now)
        self._advance(now, pose)
        if self._number >= self._next_detection:
            self._detect(now)
        self._previous = now
        self._number += 1
        while self._is_full():
            yield self._pop()

    def flush(self) -> Iterator[TrackedFrame]:
        """Yield all pending frames; the next frame starts a new scene."""
        while self._pending:
            yield self._pop()
        self._restart()

    def _is_full(self) -> bool:
        nbytes = sum(pending.frame.yuv.nbytes for pending in self._pending)
        count = len(self._pending)
        return count > LOOK_AHEAD or (nbytes > LOOK_AHEAD_BYTES and count > _MIN_LOOK_AHEAD)

    def _pop(self) -> TrackedFrame:
        """Return the oldest frame with its box."""
        now = self._pending.popleft()
        box = landmarks = None
        if now.track is not None and now.pose is not None:
            box = now.track.box(now.number, now.pose)
        if now.track is not None and now.pose is not None and box is not None:
            landmarks = now.track.landmarks(now.number, now.pose)
        return TrackedFrame(now.frame, box, now.cut, landmarks)

    def _advance(self, now: _Pending, pose: Pose | None) -> None:
        """Extend the path to this frame, or end the path."""
        if self._track is None or self._previous is None or self._previous.pose is None:
            return
        last = self._previous.pose
        if pose is None:
            self._lose(last)
            return
        self._velocity = (pose.x - last.x, pose.y - last.y)
        now.track, now.pose = self._track, pose

    def _lose(self, pose: Pose) -> None:
        half = pose.side / 2
        last = np.array([pose.x - half, pose.y - half, pose.x + half, pose.y + half], np.float32)
        self._lost = (self._number, last)
        self._track, self._velocity, self._next_detection = None, (0.0, 0.0), self._number

    def _detect(self, now: _Pending) -> None:
        """Run the detector, and schedule the next detection."""
        planes = now.frame.yuv
        if self._track is not None and now.pose is not None:
            box = self._track.estimate(now.pose)
            sighting = self._measure(now.number, planes, box, now.pose)
            if sighting is not None:
                self._track.sightings.append(sighting)
                is_new = now.number - self._track.begin < _NEW_FRAMES
                self._next_detection = now.number + (_NEW_DETECT_EVERY if is_new else _DETECT_EVERY)
                return
            self._next_detection = now.number + _RETRY_EVERY
            if now.number - self._track.sightings[-1].frame < MAX_GAP:
                return
            self._lose(now.pose)
            now.track = now.pose = None
        was_lost_recently = self._lost is not None and self._number - self._lost[0] < LOOK_AHEAD
        self._next_detection = now.number + (_RETRY_EVERY if was_lost_recently else _DETECT_EVERY)
        self._start(now)

    def _start(self, now: _Pending) -> None:
        """Detect a face in the whole frame; track it forwards, and backwards through the pending frames."""
        planes = now.frame.yuv
        ranked = self._select(search_frames([planes], self._detector)[0], planes)
        for candidate in filter(self._may_be_same, ranked):
            pose = Pose.of_box(candidate.box)
            # Three rounds of views, because they determine the box for the next second.
            num_rounds = 3 if self._detector.views > 1 else 1
            rounds = [self._measure(now.number, planes, candidate.box, pose) for _ in range(num_rounds)]
            sightings = [sighting for sighting in rounds if sighting is not None and sighting.weight >= 0.5]
            if not sightings:
                continue
            self._others = [other.box for other in ranked if overlap(other.box, candidate.box) < 0.1]
            self._track = now.track = Track(now.number, sightings)
            now.pose = pose
            self._lost = None
            self._next_detection = now.number + _NEW_DETECT_EVERY
            self._fill_back()
            return

    def _may_be_same(self, candidate: Detection) -> bool:
        """Return whether this may be the lost face: the allowed distance grows with time."""
        if self._lost is None:
            return True
        since, last = self._lost
        if any(overlap(other, candidate.box) > 0.3 for other in self._others):
            return False
        old, new = Pose.of_box(last), Pose.of_box(candidate.box)
        frames = self._number - since
        reach = (1 + 0.1 * frames) * old.side
        growth = abs(math.log(new.side / old.side))
        return math.hypot(new.x - old.x, new.y - old.y) < reach and growth < 0.5 + 0.02 * frames

    def _fill_back(self) -> None:
        """Track a new face back through the pending frames."""
        pending = list(self._pending)
        velocity = (0.0, 0.0)
        for now, before in zip(reversed(pending), reversed(pending[:-1]), strict=False):
            has_track = before.track is not None and before.track.is_near(before.number)
            if now.pose is None or now.cut or has_track or pending[-1].number - before.number > MAX_GAP:
                return
            pose = move(now.frame.yuv.y, before.frame.yuv.y, now.pose, velocity)
            if pose is None:
                return
            velocity = (pose.x - now.pose.x, pose.y - now.pose.y)
            before.track, before.pose = now.track, pose

    def _measure(self, number: int, planes: YuvImage, box: Box, pose: Pose) -> Sighting | None:
        """Detect the face on crops around a box; None if too few of them show it."""
        views = self._detector.views
        size = round(_CROP * self._detector.face_side)
        crops = [self._crop(box) for _ in range(views)]
        detections = self._detector([planes.crop(crop, size) for crop in crops])
        rows, points, weights = [], [], []
        for crop, on_crop in zip(crops, detections, strict=True):
            in_frame = [detection.from_crop(crop, size) for detection in on_crop]
            fits = [(overlap(detection.box, box), detection) for detection in in_frame]
            fits = [fit for fit in fits if fit[0] > 0.3]
            if fits:
                _, best = max(fits, key=lambda fit: fit[0] * fit[1].score)
                rows.append(pose.relative(best.box))
                points.append(None if best.landmarks is None else pose.relative_points(best.landmarks))
                # A view that matches the steps of the detector scores higher and is more accurate.
                weights.append((best.score / (1.001 - best.score)) ** 1.5)
        if len(rows) < max(1.0, views / 3):
            return None
        return Sighting(
            number,
            np.average(np.array(rows), axis=0, weights=weights),
            len(rows) / views,
            _mean_points(points, weights),
        )

    def _crop(self, box: Box) -> Box:
        """Return the square around a face for the next view."""
        side = float(max(box[2] - box[0], box[3] - box[1]))
        half, centre = _CROP * side / 2, np.array([box[0] + box[2], box[1] + box[3]]) / 2
        if self._detector.views > 1:
            zoom, *shift = _SPREAD * self._views % 1 - 0.5
            half, centre = half * _ZOOM_RANGE**zoom, centre + _SHIFT_RANGE * side * np.array(shift)
            self._views += 1
        return np.concatenate([centre - half, centre + half]).astype(np.float32)


def _mean_points(
    points: Sequence[NDArray[np.float64] | None], weights: Sequence[float]
) -> NDArray[np.float64] | None:
    """Return the mean landmarks of several views; None if one has none."""
    known = [landmarks for landmarks in points if landmarks is not None]
    return np.average(np.array(known), axis=0, weights=weights) if len(known) == len(points) else None
