"""Figures of tracked faces: jitter of the box, and distance of the landmarks (LMD)."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.evaluation.frame_pair import Figure, FramePair
from wav2lip_npu.media.yuv_image import Box

_FACE_PX = 256
"""Height of the face in whose pixels distances are given."""


class Jitter:
    """RMS of the second difference of the centre of a box over time, in percent of its height."""

    def __init__(self) -> None:
        self._centres: deque[NDArray[np.float64]] = deque(maxlen=3)
        self._sum, self._count = 0.0, 0

    def add(self, box: Box | None, *, cut: bool = False) -> None:
        """Add the next box; None and a cut interrupt the sequence."""
        if box is None or cut:
            self._centres.clear()
        if box is None:
            return
        self._centres.append((box[:2] + box[2:]).astype(np.float64) / 2)
        if len(self._centres) == 3:
            before, now, after = self._centres
            jump = (before - 2 * now + after) / max(1.0, float(box[3] - box[1]))
            self._sum += float(np.square(jump).sum())
            self._count += 1

    @property
    def value(self) -> float | None:
        """The jitter; None if there are no three consecutive boxes."""
        return 100 * float(np.sqrt(self._sum / self._count)) if self._count else None


class TrackMeasure:
    """Jitter of the boxes, and distances of the landmarks that the detector finds in both videos."""

    def __init__(self) -> None:
        self._jitter = Jitter(), Jitter()
        self._distances, self._count = np.zeros(2), 0

    def add(self, pair: FramePair) -> None:
        """Add the next pair."""
        generated, truth = pair.generated, pair.truth
        self._jitter[0].add(generated.box, cut=generated.cut)
        if truth is None:
            return
        self._jitter[1].add(truth.box, cut=truth.cut)
        if generated.landmarks is None or truth.landmarks is None or truth.box is None or pair.both is None:
            return
        scale = _FACE_PX / float(truth.box[3] - truth.box[1])
        mouths = [points[3:] - points[3:].mean(axis=0) for points in (generated.landmarks, truth.landmarks)]
        moved = (generated.landmarks - truth.landmarks, mouths[0] - mouths[1])
        self._distances += [scale * float(np.linalg.norm(points, axis=1).mean()) for points in moved]
        self._count += 1

    def figures(self) -> dict[str, Figure]:
        """Return the figures."""
        found = {}
        jitter, truth = (item.value for item in self._jitter)
        if jitter is not None:
            found["jitter"] = Figure(jitter, truth)
        if self._count:
            all_points, mouth = self._distances / self._count
            found |= {"lmd": Figure(float(all_points)), "lmd_mouth": Figure(float(mouth))}
        return found
