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

from wav2lip_npu.faces.box_limits import is_plausible, within_limits
from wav2lip_npu.faces.detection import MIN_SIDE, Detection, Detector, Landmarks, overlap, search_frames
from wav2lip_npu.faces.face_meter import FaceMeter
from wav2lip_npu.faces.likeness import Other, is_other
from wav2lip_npu.faces.lost_face import LostFace
from wav2lip_npu.faces.optical_flow import Pose, move
from wav2lip_npu.faces.scene_cuts import SceneCuts
from wav2lip_npu.faces.track import MAX_GAP, MIN_SIGHTINGS, Sighting, Track
from wav2lip_npu.media.video_reader import Frame
from wav2lip_npu.media.yuv_image import Box, YuvImage

Select = Callable[[Sequence[Detection], YuvImage], list[Detection]]
"""Returns the detections that are certainly faces, the selected one first."""
Search = Callable[[YuvImage], list[Detection]]
"""Detects all faces of a frame."""

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
_TURNING_DETECT_EVERY, _CROWDED_DETECT_EVERY = 4, 3
"""The same while the head turns, and while another face is within `_CLOSE` sides."""
_CLOSE = 1.5
_SETTLE_FRAMES, _UNSETTLED_DETECT_EVERY = 6, 2
"""Frames over which the detections of a new track must agree, and the frames between them."""
_MAX_REJECTED = 8
"""Places of rejected tracks that are remembered in a shot; other faces are tried before those."""


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

    def __init__(self, detector: Detector, select: Select, search: Search | None = None) -> None:
        self._detector, self._select, self._meter = detector, select, FaceMeter(detector)
        self._search = search or (lambda planes: search_frames([planes], detector)[0])
        self._pending: deque[_Pending] = deque()
        self._number = 0
        self._restart()

    def _restart(self) -> None:
        """Discard the current scene and start a new one."""
        self._track: Track | None = None
        self._previous: _Pending | None = None
        self._velocity = (0.0, 0.0)
        self._next_detection = self._number
        self._lost: LostFace | None = None
        self._others: list[Other] = []
        self._rejected: list[Box] = []
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
        if self._track is not None and not self._track.is_settled:
            for _ in range(2 if self._detector.views > 1 else 1):
                self._track.add(self._look(self._pending[-1], self._track))
            self._track.settle()
        while self._pending:
            yield self._pop()
        self._restart()

    def _is_full(self) -> bool:
        nbytes = sum(pending.frame.yuv.nbytes for pending in self._pending)
        count = len(self._pending)
        return count > LOOK_AHEAD or (nbytes > LOOK_AHEAD_BYTES and count > _MIN_LOOK_AHEAD)

    def _pop(self) -> TrackedFrame:
        """Return the oldest frame with its face."""
        now = self._pending.popleft()
        track, pose = now.track, now.pose
        box = landmarks = None
        if track is not None and pose is not None:
            if now.number >= track.begin:
                track.settle()  # large frames leave before all detections that `settle` wants
            box = track.box(now.number, pose) if track.is_face else None
            landmarks = None if box is None else track.landmarks(now.number, pose)
        if box is not None and landmarks is not None:
            box = within_limits(box, landmarks, now.frame.yuv.height)
        return TrackedFrame(now.frame, box, now.cut, landmarks)

    def _advance(self, now: _Pending, pose: Pose | None) -> None:
        """Extend the path to this frame, or end the path."""
        if self._track is None or self._previous is None or self._previous.pose is None:
            return
        last = self._previous.pose
        if pose is None:
            self._lose(self._track, last)
            return
        self._velocity = (pose.x - last.x, pose.y - last.y)
        now.track, now.pose = self._track, pose

    def _lose(self, track: Track, pose: Pose) -> None:
        """End the path of a face that was last at this pose."""
        if track.is_settled or len(track.sightings) >= MIN_SIGHTINGS:
            track.settle()
        if track.is_face:
            self._lost = LostFace(self._number, track.estimate(pose), track.look)
        else:
            self._rejected.append(track.estimate(pose))
            for pending in self._pending:
                if pending.track is track:
                    pending.track = pending.pose = None
        self._track, self._velocity, self._next_detection = None, (0.0, 0.0), self._number

    def _detect(self, now: _Pending) -> None:
        """Run the detector, and schedule the next detection."""
        if self._track is not None and now.pose is not None:
            if self._detect_again(now, self._track, now.pose):
                return
            now.track = now.pose = None
        was_lost_recently = self._lost is not None and self._number - self._lost.frame < LOOK_AHEAD
        room = min(LOOK_AHEAD, LOOK_AHEAD_BYTES // now.frame.yuv.nbytes) - _SETTLE_FRAMES
        every = _RETRY_EVERY if was_lost_recently else min(_DETECT_EVERY, max(1, int(room)))
        self._next_detection = now.number + every
        self._start(now)

    def _detect_again(self, now: _Pending, track: Track, pose: Pose) -> bool:
        """Detect the tracked face in this frame; return whether it is still tracked."""
        sighting = self._look(now, track)
        if sighting is not None and is_other(sighting.look, track.look, self._others):
            self._leave(now, track, pose)
            return False
        track.add(sighting)
        if now.number - track.begin >= _SETTLE_FRAMES and not track.settle():
            self._lose(track, pose)
            return False
        if sighting is not None:
            self._lost = None if track.is_face else self._lost
            self._next_detection = now.number + self._interval(track, sighting, pose)
            return True
        self._next_detection = now.number + (_RETRY_EVERY if track.is_settled else _UNSETTLED_DETECT_EVERY)
        if now.number - track.sightings[-1].frame < MAX_GAP:
            return True
        self._lose(track, pose)
        return False

    def _look(self, now: _Pending, track: Track) -> Sighting | None:
        """Detect the tracked face in a frame, and note the others near it."""
        if now.pose is None:
            return None
        box = track.estimate(now.pose)
        sighting = self._meter.measure(now.number, now.frame.yuv, box, now.pose, track.look)
        if sighting is not None and sighting.others:
            self._others = list(sighting.others)
        return sighting

    @staticmethod
    def _interval(track: Track, sighting: Sighting, pose: Pose) -> int:
        """Return the number of frames until the next detection."""
        if not track.is_settled:
            return _UNSETTLED_DETECT_EVERY
        others = [Pose.of_box(other.box) for other in sighting.others]
        if any(math.hypot(other.x - pose.x, other.y - pose.y) < _CLOSE * pose.side for other in others):
            return _CROWDED_DETECT_EVERY
        if track.is_turning:
            return _TURNING_DETECT_EVERY
        return _NEW_DETECT_EVERY if sighting.frame - track.begin < _NEW_FRAMES else _DETECT_EVERY

    def _leave(self, now: _Pending, track: Track, pose: Pose) -> None:
        """End a path that led from the face to that of somebody else, where it left the face."""
        for pending in reversed(list(self._pending)[:-1]):
            if pending.track is not track or pending.pose is None:
                break
            sighting = self._look(pending, track)
            if pending.number <= track.sightings[-1].frame or not (
                sighting is None or is_other(sighting.look, track.look, self._others)
            ):
                pose = pending.pose
                break
            pending.track = pending.pose = None
        now.track = now.pose = None
        self._lose(track, pose)

    def _start(self, now: _Pending) -> None:
        """Detect a face in the whole frame; track it forwards, and backwards through the pending frames."""
        planes = now.frame.yuv
        ranked = self._select(self._search(planes), planes)
        ranked.sort(key=lambda face: any(overlap(face.box, box) > 0.5 for box in self._rejected))
        self._rejected = self._rejected[-_MAX_REJECTED:]
        for candidate in filter(self._may_be_same, ranked):
            pose = Pose.of_box(candidate.box)
            sighting = self._meter.measure(now.number, planes, candidate.box, pose)
            if sighting is None or sighting.weight < 0.5:
                continue
            if self._lost is not None and self._lost.differs(sighting, self._others):
                continue
            others = [Other(other.box) for other in ranked if overlap(other.box, candidate.box) < 0.3]
            self._others = list(sighting.others) or self._others or others
            self._track = now.track = Track(now.number)
            self._track.add(sighting)
            now.pose = pose
            self._next_detection = now.number + _UNSETTLED_DETECT_EVERY
            self._fill_back(self._track)
            return

    def _may_be_same(self, candidate: Detection) -> bool:
        """Return whether this may be a face, and the lost one."""
        if candidate.landmarks is not None and not is_plausible(candidate.box, candidate.landmarks):
            return False
        return self._lost is None or self._lost.may_be(candidate, self._number, self._others)

    def _fill_back(self, track: Track) -> None:
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
            before.track, before.pose = track, pose
            if self._lost is not None and self._others:
                sighting = self._look(before, track)
                if sighting is None or is_other(sighting.look, track.look, self._others):
                    before.track = before.pose = None
                    return
