"""The uninterrupted path of one face, and its smoothed box and landmarks relative to that path."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.faces.detection import Landmarks
from wav2lip_npu.faces.likeness import Look, Other
from wav2lip_npu.faces.optical_flow import Pose
from wav2lip_npu.media.yuv_image import Box

MAX_GAP = 12
"""Maximum number of frames between a box and the nearest detection of its face."""
_WINDOW = 100
"""Number of past frames whose detections affect the box."""
_WEIGHT_DECAY = 50
"""Frames over which the weight of a detection falls by a factor of e."""
_DEAD_BAND = np.array([0.015, 0.015, 0.025, 0.025])
"""Differences within which the box barely moves: they come from the detector's steps, not from the head."""
_LANDMARK_DECAY = 4
"""The same as `_WEIGHT_DECAY` for landmarks, which also move when the head turns away from its path."""
_LANDMARK_DISTANCE = 0.1
"""Sides of the face between landmarks and their mean at which a detection loses half of its weight."""
MIN_SIGHTINGS = 3
"""Detections that must agree before a track has boxes."""
_MAX_DIFFERENCE, _MAX_LANDMARK_DIFFERENCE = 0.12, 0.1
"""Sides of the face, and log sizes, within which detections agree."""
_TURN = 0.06
"""Sides of the face by which landmarks move between two detections when the head turns."""
_FAST, _SLOW = 0.1, 0.004
"""Share of the difference that the box follows per frame, outside and inside the dead band."""


@dataclass(frozen=True)
class Sighting:
    """One detection of the face on the path."""

    frame: int
    relative: NDArray[np.float64]
    """`Pose.relative` of the detected box."""
    weight: float
    """Share of the detector's views that show the face."""
    landmarks: NDArray[np.float64] | None = None
    """`Pose.relative_points` of the detected landmarks, [5, 2]."""
    look: Look | None = None
    others: Sequence[Other] = ()
    """Other faces near it."""


@dataclass
class Track:
    """A face tracked without interruption, first detected in frame `begin`.

    It has no boxes until `settle` finds that its detections agree.
    """

    begin: int
    sightings: list[Sighting] = field(default_factory=list)
    misses: int = 0
    """Number of times that the face was not detected."""
    is_settled: bool = False
    is_face: bool = False
    look: Look | None = None
    """Mean look, in which that of the last detection counts most."""
    _offset: NDArray[np.float64] | None = None

    def add(self, sighting: Sighting | None) -> None:
        """Add a detection, or None if the face was not detected."""
        if sighting is None:
            self.misses += 1
            return
        self.sightings.append(sighting)
        if sighting.look is not None:
            mean = sighting.look if self.look is None else self.look + sighting.look
            self.look = mean / max(float(np.linalg.norm(mean)), 1e-6)

    def settle(self) -> bool:
        """Decide whether the detections so far show one face: three that agree, or all of fewer."""
        if not self.is_settled:
            self.is_settled = True
            self.is_face = self._num_agreeing() >= min(MIN_SIGHTINGS, len(self.sightings) + self.misses)
        return self.is_face

    def _num_agreeing(self) -> int:
        """Return the number of detections that are close to the median one."""
        rows = np.array([sighting.relative for sighting in self.sightings])
        agree = np.abs(rows - np.median(rows, axis=0)).max(axis=1) < _MAX_DIFFERENCE
        points = [sighting.landmarks for sighting in self.sightings if sighting.landmarks is not None]
        if len(points) == len(rows):
            apart = np.linalg.norm(points - np.median(points, axis=0), axis=2).mean(axis=1)
            agree &= apart < _MAX_LANDMARK_DIFFERENCE
        return int(agree.sum())

    def is_near(self, frame: int) -> bool:
        """Return whether the face was detected within `MAX_GAP` frames."""
        return any(abs(sighting.frame - frame) <= MAX_GAP for sighting in self.sightings)

    def estimate(self, pose: Pose) -> Box:
        """Return the current estimate of the box at a pose."""
        offset = self._offset
        if offset is None:
            offset = np.mean([sighting.relative for sighting in self.sightings], axis=0)
        return pose.absolute(offset)

    def box(self, frame: int, pose: Pose) -> Box | None:
        """Return the smoothed box of the next frame; None if it is too far from any detection."""
        self._follow(frame)
        if self._offset is None or not self.is_near(frame):
            return None
        return pose.absolute(self._offset)

    @property
    def is_turning(self) -> bool:
        """Whether the landmarks moved relative to the path between the last two detections."""
        last = [sighting.landmarks for sighting in self.sightings[-2:] if sighting.landmarks is not None]
        return len(last) == 2 and float(np.abs(last[1] - last[0]).max()) > _TURN

    def landmarks(self, frame: int, pose: Pose) -> Landmarks | None:
        """Return the landmarks of a frame, from the detections within a few frames; None without any."""
        seen = [
            (sighting.landmarks, sighting.weight * math.exp(-abs(sighting.frame - frame) / _LANDMARK_DECAY))
            for sighting in self.sightings
            if sighting.landmarks is not None and abs(sighting.frame - frame) <= 2 * MAX_GAP
        ]
        if not seen:
            return None
        points = np.array([landmarks.ravel() for landmarks, _ in seen])
        weights = trust = np.array([weight for _, weight in seen])
        for _ in range(2):
            away = (points - trust @ points / trust.sum()).reshape(len(points), -1, 2)
            distance = np.hypot(away[..., 0], away[..., 1]).mean(axis=1) / _LANDMARK_DISTANCE
            trust = weights / (1 + distance**2)
        return pose.absolute_points((trust @ points / trust.sum()).reshape(-1, 2))

    def _follow(self, frame: int) -> None:
        """Move the offset towards the robust mean of the detections around a frame."""
        while len(self.sightings) > 1 and self.sightings[0].frame < frame - _WINDOW:
            self.sightings.pop(0)
        rows = np.array([sighting.relative for sighting in self.sightings])
        age = np.array([sighting.frame - frame for sighting in self.sightings], np.float64)
        weights = np.array([sighting.weight for sighting in self.sightings])
        target = _robust_mean(rows, weights * np.exp(-np.abs(age) / _WEIGHT_DECAY))
        if self._offset is None:
            self._offset = target
            return
        within = np.clip(target - self._offset, -_DEAD_BAND, _DEAD_BAND)
        self._offset = self._offset + _FAST * (target - self._offset - within) + _SLOW * within


def _robust_mean(rows: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of rows [K, 4], in which outliers have little weight."""
    middle = _median(rows)
    for _ in range(3):
        distance = np.abs(rows - middle)
        width = np.maximum(2.5 * _median(distance), 0.03)
        trust = weights[:, None] / (1 + (distance / width) ** 2) ** 2
        middle = (trust * rows).sum(axis=0) / trust.sum(axis=0)
    return np.asarray(middle)


def _median(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the median of few rows [K, 4]; `np.median` spends most of its time on checks."""
    ordered = np.sort(rows, axis=0)
    return np.asarray((ordered[(len(rows) - 1) // 2] + ordered[len(rows) // 2]) / 2)
