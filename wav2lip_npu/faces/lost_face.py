"""A face whose path ended within a shot, and whether a new detection is that face again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from wav2lip_npu.faces.detection import Detection, overlap
from wav2lip_npu.faces.likeness import Look, Other, is_other
from wav2lip_npu.faces.optical_flow import Pose
from wav2lip_npu.faces.track import Sighting
from wav2lip_npu.media.yuv_image import Box

_MAX_ABSENCE = 100
"""Frames after which the face is no longer expected back, and any other may be tracked."""


@dataclass(frozen=True)
class LostFace:
    """The last known place and look of a face."""

    frame: int
    box: Box
    look: Look | None

    def may_be(self, candidate: Detection, frame: int, others: Sequence[Other]) -> bool:
        """Return whether a detection in a later frame is close enough: the distance grows with time."""
        absence = frame - self.frame
        if absence > _MAX_ABSENCE:
            return True
        if self.look is None and any(overlap(other.box, candidate.box) > 0.3 for other in others):
            return False
        old, new = Pose.of_box(self.box), Pose.of_box(candidate.box)
        reach = (1 + 0.1 * absence) * old.side
        growth = abs(math.log(new.side / old.side))
        return math.hypot(new.x - old.x, new.y - old.y) < reach and growth < 0.5 + 0.02 * absence

    def differs(self, sighting: Sighting, others: Sequence[Other]) -> bool:
        """Return whether a detection looks more like one of the others."""
        is_expected = sighting.frame - self.frame <= _MAX_ABSENCE
        return is_expected and is_other(sighting.look, self.look, others)
