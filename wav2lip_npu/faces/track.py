"""The uninterrupted path of one face, and its smoothed box and landmarks relative to that path."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.faces.detection import Landmarks
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


@dataclass
class Track:
    """A face tracked without interruption from frame `begin` on."""

    begin: int
    sightings: list[Sighting] = field(default_factory=list)
    _offset: NDArray[np.float64] | None = None

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

    def landmarks(self, frame: int, pose: Pose) -> Landmarks | None:
        """Return the landmarks of a frame, from the detections within a few frames; None without any."""
        seen = [
            (sighting.landmarks, sighting.weight * math.exp(-abs(sighting.frame - frame) / _LANDMARK_DECAY))
            for sighting in self.sightings
            if sighting.landmarks is not None and abs(sighting.frame - frame) <= 2 * MAX_GAP
        ]
        if not seen:
            return None
        points = np.array([landmarks for landmarks, _ in seen])
        weights = np.array([weight for _, weight in seen])
        middle = np.average(points, axis=0, weights=weights)
        for _ in range(2):
            distance = np.linalg.norm(points - middle, axis=2).mean(axis=1) / _LANDMARK_DISTANCE
            middle = np.average(points, axis=0, weights=weights / (1 + distance**2))
        return pose.absolute_points(middle)

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
    middle = np.median(rows, axis=0)
    for _ in range(3):
        distance = np.abs(rows - middle)
        width = np.maximum(2.5 * np.median(distance, axis=0), 0.03)
        trust = weights[:, None] / (1 + (distance / width) ** 2) ** 2
        middle = (trust * rows).sum(axis=0) / trust.sum(axis=0)
    return np.asarray(middle)
