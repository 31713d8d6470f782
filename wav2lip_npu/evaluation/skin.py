"""Figures of the composite: flicker of still skin, seams, and pixels that should be as filmed."""

from __future__ import annotations

from collections import deque

import cv2
import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.data.clip_layout import FACE_SIZE
from wav2lip_npu.dubbing.blend import load_mask
from wav2lip_npu.evaluation.frame_pair import Figure, FramePair
from wav2lip_npu.evaluation.picture import Plane, psnr, region
from wav2lip_npu.media.yuv_image import Box, YuvImage

_MASK = load_mask("soft", FACE_SIZE)
_WEIGHTS = np.pad(_MASK.weights, ((_MASK.top_row, 0), (0, 0)))
JAW = region(0.18, 0.32, 0.7, 0.88) | region(0.68, 0.82, 0.7, 0.88)
RIM = (_WEIGHTS > 0.02) & (_WEIGHTS < 0.98) & region(0.1, 0.9, 0.3, 0.98)
"""Rim of the soft mask."""
STILL = JAW | RIM
"""Skin that speech moves little."""
_WIDER = 1.5
"""Side of the crop for seams, relative to the box."""
_SEAM_SIZE = round(_WIDER * FACE_SIZE)
_SEAM_REACH = 4
"""Pixels of a face of 96 px around the border of the box in which a seam is looked for."""
_OUTSIDE, _OUTSIDE_PX = 0.15, 16
"""Share of the side, and pixels, by which the box grows to include everything that a dub may change."""
_CHANGED = 16
"""Levels by which luma differs in a pixel that has changed; compression alone rarely changes it so much."""


class Flicker:
    """RMS, in levels, of skin that hardly moves minus the mean of the frames before and after it."""

    def __init__(self) -> None:
        self._planes: deque[Plane] = deque(maxlen=3)
        self._sum, self._count = 0.0, 0

    def add(self, face: Plane | None) -> None:
        """Add the next luma [96, 96] of a face; None interrupts the sequence."""
        if face is None:
            self._planes.clear()
            return
        self._planes.append(face)
        if len(self._planes) == 3:
            before, now, after = self._planes
            self._sum += float(np.square((now - (before + after) / 2)[STILL]).mean())
            self._count += 1

    @property
    def value(self) -> float | None:
        """The flicker; None if there are no three consecutive faces."""
        return float(np.sqrt(self._sum / self._count)) if self._count else None


def luma_face(frame: YuvImage, box: Box) -> Plane:
    """Return the green channel of a face, which is close to its luma, float32 [96, 96]."""
    return frame.crop(box, FACE_SIZE)[..., 1].astype(np.float32)


def seam(difference: NDArray[np.float32]) -> float:
    """Return the largest mean step of the difference of two faces across the border of the box, in levels.

    `difference` is float32 [144, 144], of which the box is the middle 96. Left, right and lower border are
    searched within 4 pixels; a step extends over 2 pixels.
    """
    low, high = (_SEAM_SIZE - FACE_SIZE) // 2, (_SEAM_SIZE + FACE_SIZE) // 2
    middle = _SEAM_SIZE // 2
    rows = difference[middle:high]
    columns = difference[:, low:high]
    steps = [0.0]
    for offset in range(-_SEAM_REACH, _SEAM_REACH + 1):
        for edge in (low + offset, high + offset):
            steps.append(float(np.abs(rows[:, edge + 1] - rows[:, edge - 1]).mean()))
        edge = high + offset
        steps.append(float(np.abs(columns[edge + 1] - columns[edge - 1]).mean()))
    return max(steps)


class SkinMeasure:
    """Flicker, seams, and changes outside the face, of the generated video compared with the original."""

    def __init__(self) -> None:
        self._flicker = Flicker(), Flicker()
        self._seams, self._faces = 0.0, 0
        self._outside_error = self._outside_pixels = 0.0
        self._outside_changed, self._outside_count = 0.0, 0

    def add(self, pair: FramePair) -> None:
        """Add the next pair."""
        box, both = pair.box, pair.both
        generated, truth = self._flicker
        if pair.is_cut:
            generated.add(None)
            truth.add(None)
        generated.add(None if box is None else luma_face(pair.generated.frame.yuv, box))
        if pair.truth is not None:
            truth.add(None if box is None else luma_face(pair.truth.frame.yuv, box))
        if box is None or both is None:
            return
        self._add_seam(both, box)
        self._add_outside(both, box)

    def _add_seam(self, both: tuple[YuvImage, YuvImage], box: Box) -> None:
        centre, half = (box[:2] + box[2:]) / 2, _WIDER * (box[2:] - box[:2]) / 2
        wide = np.concatenate([centre - half, centre + half]).astype(np.float32)
        faces = [frame.crop(wide, _SEAM_SIZE)[..., 1].astype(np.float32) for frame in both]
        self._seams += seam(np.asarray(faces[0] - faces[1], np.float32))
        self._faces += 1

    def _add_outside(self, both: tuple[YuvImage, YuvImage], box: Box) -> None:
        margin = np.maximum(_OUTSIDE * (box[2:] - box[:2]), _OUTSIDE_PX)
        x1, y1 = np.floor(box[:2] - margin).astype(int).clip(0)
        x2, y2 = np.ceil(box[2:] + margin).astype(int).clip(0)
        difference = cv2.absdiff(both[0].y, both[1].y)
        difference[y1:y2, x1:x2] = 0
        height, width = difference.shape
        inside = max(0, min(y2, height) - y1) * max(0, min(x2, width) - x1)
        count = difference.size - inside
        if not count:
            return
        self._outside_error += float(cv2.norm(difference, cv2.NORM_L2SQR))
        self._outside_changed += float(np.count_nonzero(difference > _CHANGED))
        self._outside_pixels += count
        self._outside_count += 1

    def figures(self) -> dict[str, Figure]:
        """Return the figures."""
        generated, truth = (flicker.value for flicker in self._flicker)
        found = {} if generated is None else {"flicker": Figure(generated, truth)}
        if self._faces:
            found["seam"] = Figure(self._seams / self._faces)
        if self._outside_count:
            found["outside_psnr"] = Figure(psnr(self._outside_error / self._outside_pixels))
            found["outside_changed"] = Figure(self._outside_changed / self._outside_pixels)
        return found
