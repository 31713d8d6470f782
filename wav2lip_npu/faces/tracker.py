"""Follow one face from frame to frame, a bounded number of frames behind the newest.

Detection is slow and its boxes come in steps; motion is fast and exact but drifts. So the path of the
face is integrated from frame-to-frame motion (`motion.move`), a detector looks at it every few frames,
and a robust mean of what it says, before and after the frame, places the box upon the path. The mean
is of the difference between the two, so a moving head is neither smoothed nor lagged.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.faces.detectors import Detection, Detector
from wav2lip_npu.faces.optical_flow import Luma, Pose, is_cut, move, thumbnail
from wav2lip_npu.media.video_reader import Frame
from wav2lip_npu.media.yuv_image import Box, YuvImage

Followed = tuple[Frame, Box | None, bool]
"""A frame, the box of its face, whether a new scene begins."""
Choose = Callable[[Sequence[Detection], YuvImage], list[Detection]]
"""The detections that are faces for sure, the wanted one first."""

LOOK_AHEAD = 25
"""Frames that are read before the first is given out, fewer when they are large."""
LOOK_AHEAD_BYTES = 128 * 2**20
MIN_LOOK_AHEAD = 3
STRIDE = 10
"""Frames between two detections on a face that is well followed."""
YOUNG, YOUNG_STRIDE = 16, 5
RETRY = 3
"""Frames between two detections while the face is not confirmed."""
GAP = 12
"""Frames by which a box may be away from the nearest detection of its face."""
MEMORY = 100
"""Frames back to which detections still place the box."""
_MIN_SIDE = 16
# A face is measured on a square crop of this many times its size.
_CROP = 1.7
# Multiples of these, modulo 1, fill a cube evenly however many are taken (Roberts 2018): the zoom and
# the two shifts of the views, which step evenly through one pyramid step and one cell of the detector.
_SPREAD = np.array([0.8191725134, 0.6710436067, 0.5497004779])


class Cuts:
    """Compares each frame with the one before."""

    def __init__(self) -> None:
        self._last: Luma | None = None
        self._shape: tuple[int, ...] = ()

    def between(self, planes: YuvImage) -> bool:
        """Whether a new scene begins with these planes."""
        last, self._last = self._last, None
        shape, self._shape = self._shape, planes.y.shape
        if min(self._shape) < 1:
            return False
        self._last = thumbnail(planes.y)
        return last is not None and (shape != self._shape or is_cut(last, self._last))


@dataclass
class _Track:
    """A face followed without a break: what the detector said of it, and where the box now lies upon it."""

    seen: list[tuple[int, NDArray[np.float64], float]] = field(default_factory=list)
    """(frame number, box relative to the path: x, y, log width, log height in sides, weight)"""
    offset: NDArray[np.float64] | None = None
    begin: int = 0

    def near(self, number: int) -> bool:
        """Whether a detection lies within `GAP` frames."""
        return any(abs(at - number) <= GAP for at, _, _ in self.seen)


@dataclass
class _Pending:
    frame: Frame
    number: int
    cut: bool
    track: _Track | None = None
    pose: Pose | None = None


class Follower:
    """Follows one face through each scene; `choose` says which, where there are several.

    Takes frames one by one and gives each out once, in order, when enough of what follows is known.
    """

    def __init__(self, detector: Detector, choose: Choose) -> None:
        self._detector, self._choose = detector, choose
        self._pending: deque[_Pending] = deque()
        self._number = 0
        self._measured = 0
        self._restart()

    def _restart(self) -> None:
        """A new scene: nothing of the old one counts."""
        self._track: _Track | None = None
        self._previous: _Pending | None = None
        self._velocity = (0.0, 0.0)
        self._next_look = self._number
        self._lost: tuple[int, Box] | None = None
        self._others: list[Box] = []
        self._cuts = Cuts()

    def push(self, frame: Frame) -> Iterator[Followed]:
        """Take the next frame; give out those that are old enough."""
        planes = frame.yuv
        suspicious = self._cuts.between(planes)
        if min(planes.y.shape) < _MIN_SIDE:
            yield from self.flush()
            yield frame, None, False
            return
        pose = None
        if self._track is not None and self._previous is not None and self._previous.pose is not None:
            before = self._previous.frame.yuv.y
            if before.shape == planes.y.shape:
                pose = move(before, planes.y, self._previous.pose, self._velocity)
        cut = suspicious and pose is None
        if cut:
            cuts = self._cuts
            yield from self.flush()
            self._cuts = cuts
        now = _Pending(frame, self._number, cut)
        self._pending.append(now)
        self._advance(now, pose)
        if self._number >= self._next_look:
            self._look(now)
        self._previous = now
        self._number += 1
        while self._full():
            yield self._give()

    def flush(self) -> Iterator[Followed]:
        """Give out all that wait; what comes next is another scene."""
        while self._pending:
            yield self._give()
        self._restart()

    def _full(self) -> bool:
        held = sum(each.frame.yuv.nbytes for each in self._pending)
        count = len(self._pending)
        return count > LOOK_AHEAD or (held > LOOK_AHEAD_BYTES and count > MIN_LOOK_AHEAD)

    def _advance(self, now: _Pending, pose: Pose | None) -> None:
        """Carry the path on to this frame, or end it."""
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
        where = np.array([pose.x - half, pose.y - half, pose.x + half, pose.y + half], np.float32)
        self._lost = (self._number, where)
        self._track, self._velocity, self._next_look = None, (0.0, 0.0), self._number

    def _look(self, now: _Pending) -> None:
        """Ask the detector, and decide when to ask again."""
        planes = now.frame.yuv
        if self._track is not None and now.pose is not None:
            box = self._box(self._track, now.pose)
            seen = self._measure(planes, box, now.pose)
            if seen is not None:
                self._track.seen.append((now.number, *seen))
                young = now.number - self._track.begin < YOUNG
                self._next_look = now.number + (YOUNG_STRIDE if young else STRIDE)
                return
            self._next_look = now.number + RETRY
            if now.number - self._track.seen[-1][0] < GAP:
                return
            self._lose(now.pose)
            now.track = now.pose = None
        self._next_look = now.number + (RETRY if self._recent() else STRIDE)
        self._start(now)

    def _recent(self) -> bool:
        """Whether a face was lost, or the scene began, a moment ago."""
        return self._lost is not None and self._number - self._lost[0] < LOOK_AHEAD

    def _start(self, now: _Pending) -> None:
        """Search the whole frame; when the face is there, follow it from here, and back from here."""
        planes = now.frame.yuv
        found = search([planes], self._detector)[0]
        ranked = self._choose(found, planes)
        for candidate in filter(self._may_be, ranked):
            pose = pose_of(candidate.box)
            # Three rounds of views: what is learnt here places the box for the next second.
            num_rounds = 3 if self._detector.views > 1 else 1
            rounds = [self._measure(planes, candidate.box, pose) for _ in range(num_rounds)]
            seen = [each for each in rounds if each is not None and each[1] >= 0.5]
            if not seen:
                continue
            self._others = [each.box for each in ranked if overlap(each.box, candidate.box) < 0.1]
            self._track = now.track = _Track(begin=now.number)
            self._track.seen = [(now.number, *each) for each in seen]
            now.pose = pose
            self._lost = None
            self._next_look = now.number + YOUNG_STRIDE
            self._fill_back()
            return

    def _may_be(self, candidate: Detection) -> bool:
        """Whether this can be the person lost before: the longer ago, the further away."""
        if self._lost is None:
            return True
        since, last = self._lost
        if any(overlap(other, candidate.box) > 0.3 for other in self._others):
            return False
        was, here = pose_of(last), pose_of(candidate.box)
        frames = self._number - since
        reach = (1 + 0.1 * frames) * was.side
        grown = abs(math.log(here.side / was.side))
        return math.hypot(here.x - was.x, here.y - was.y) < reach and grown < 0.5 + 0.02 * frames

    def _fill_back(self) -> None:
        """Follow a newly found face back through the frames that wait."""
        entries = list(self._pending)
        velocity = (0.0, 0.0)
        for now, before in zip(reversed(entries), reversed(entries[:-1]), strict=False):
            taken = before.track is not None and before.track.near(before.number)
            if now.pose is None or now.cut or taken or entries[-1].number - before.number > GAP:
                return
            pose = move(now.frame.yuv.y, before.frame.yuv.y, now.pose, velocity)
            if pose is None:
                return
            velocity = (pose.x - now.pose.x, pose.y - now.pose.y)
            before.track, before.pose = now.track, pose

    def _measure(self, planes: YuvImage, box: Box, pose: Pose) -> tuple[NDArray[np.float64], float] | None:
        """Where the detector sees the face, relative to the pose, and the share of views that agree."""
        views = self._detector.views
        side = float(max(box[2] - box[0], box[3] - box[1]))
        size = round(_CROP * self._detector.face_side)
        centre = np.array([box[0] + box[2], box[1] + box[3]]) / 2
        crops, images = [], []
        for _ in range(views):
            half, middle = _CROP * side / 2, centre
            if views > 1:
                zoom, *shift = _SPREAD * self._measured % 1 - 0.5
                half, middle = half * 1.2**zoom, centre + 0.09 * side * np.array(shift)
                self._measured += 1
            crop = np.concatenate([middle - half, middle + half]).astype(np.float32)
            crops.append(crop)
            images.append(planes.crop(crop, size))
        rows, weights = [], []
        for crop, found in zip(crops, self._detector(images), strict=True):
            boxes = [(_from_crop(each.box, crop, size), each.score) for each in found]
            fits = [(overlap(each, box), score, each) for each, score in boxes if overlap(each, box) > 0.3]
            if fits:
                _, score, best = max(fits, key=lambda fit: fit[0] * fit[1])
                rows.append(_relative(best, pose))
                # A view that happens to suit the detector's steps scores higher, and is nearer the truth.
                weights.append((score / (1.001 - score)) ** 1.5)
        if len(rows) < max(1.0, views / 3):
            return None
        return np.average(np.array(rows), axis=0, weights=weights), len(rows) / views

    def _box(self, track: _Track, pose: Pose) -> Box:
        """The box upon the path as it is known now."""
        offset = track.offset
        if offset is None:
            offset = np.mean([each for _, each, _ in track.seen], axis=0)
        return _absolute(offset, pose)

    def _give(self) -> Followed:
        """The oldest frame, with its box."""
        now = self._pending.popleft()
        box = None
        if now.track is not None and now.pose is not None:
            _steady(now.track, now.number)
            if now.track.near(now.number) and now.track.offset is not None:
                box = _absolute(now.track.offset, now.pose)
        return now.frame, box, now.cut


def _steady(track: _Track, number: int) -> None:
    """Move the offset towards what the detections around this frame say, where they insist."""
    while len(track.seen) > 1 and track.seen[0][0] < number - MEMORY:
        track.seen.pop(0)
    rows = np.array([row for _, row, _ in track.seen])
    age = np.array([at - number for at, _, _ in track.seen], np.float64)
    weights = np.array([weight for _, _, weight in track.seen]) * np.exp(-np.abs(age) / 50)
    wanted = _robust_mean(rows, weights)
    if track.offset is None:
        track.offset = wanted
        return
    # Inside the band the box all but rests: a step of the detector is no motion of the head.
    band = np.array([0.015, 0.015, 0.025, 0.025])
    inside = np.clip(wanted - track.offset, -band, band)
    track.offset = track.offset + 0.1 * (wanted - track.offset - inside) + 0.004 * inside


def _robust_mean(rows: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of rows [K, 4] in which far-off rows hardly count."""
    middle = np.median(rows, axis=0)
    for _ in range(3):
        distance = np.abs(rows - middle)
        width = np.maximum(2.5 * np.median(distance, axis=0), 0.03)
        trust = weights[:, None] / (1 + (distance / width) ** 2) ** 2
        middle = (trust * rows).sum(axis=0) / trust.sum(axis=0)
    return np.asarray(middle)


def search(pictures: Sequence[YuvImage], detector: Detector) -> list[list[Detection]]:
    """Faces anywhere in each picture, in its own pixels, found on a copy of `detector.short_side`.

    The copy is at most twice the original: beyond that enlarging invents, it does not show.
    """
    scales = [min(2.0, detector.short_side / max(1, min(each.width, each.height))) for each in pictures]
    usable = [i for i, each in enumerate(pictures) if min(each.width, each.height) >= _MIN_SIDE]
    copies = []
    for i in usable:
        width, height = (max(1, round(side * scales[i])) for side in (pictures[i].width, pictures[i].height))
        copies.append(pictures[i].scaled(width, height))
    found: list[list[Detection]] = [[] for _ in pictures]
    for i, copy, detections in zip(usable, copies, detector(copies) if copies else [], strict=True):
        back = np.array(
            [pictures[i].width / copy.shape[1], pictures[i].height / copy.shape[0]] * 2, np.float32
        )
        found[i] = [Detection(each.box * back, each.score) for each in detections]
    return found


def overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    common = np.prod(np.maximum(np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]), 0))
    areas = np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2])
    return float(common / max(float(areas - common), 1e-9))


def pose_of(box: Box) -> Pose:
    """The pose of a box."""
    x1, y1, x2, y2 = (float(edge) for edge in box)
    return Pose((x1 + x2) / 2, (y1 + y2) / 2, math.sqrt(max(1e-6, (x2 - x1) * (y2 - y1))))


def _relative(box: Any, pose: Pose) -> NDArray[np.float64]:
    x1, y1, x2, y2 = (float(edge) for edge in box)
    place = [(x1 + x2) / 2 - pose.x, (y1 + y2) / 2 - pose.y]
    return np.array(
        [*(p / pose.side for p in place), math.log((x2 - x1) / pose.side), math.log((y2 - y1) / pose.side)]
    )


def _absolute(offset: NDArray[np.float64], pose: Pose) -> Box:
    x, y = pose.x + offset[0] * pose.side, pose.y + offset[1] * pose.side
    half_width, half_height = np.exp(offset[2:]) * pose.side / 2
    return np.array([x - half_width, y - half_height, x + half_width, y + half_height], np.float32)


def _from_crop(box: Box, crop: Box, size: int) -> Box:
    """A box in the pixels of a crop, in those of the frame."""
    unit = float(crop[2] - crop[0]) / size
    return np.asarray(box * unit + np.concatenate([crop[:2], crop[:2]]), np.float32)
