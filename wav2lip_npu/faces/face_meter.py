"""Measure one face on crops around it, more accurately than in the whole frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.faces.detection import Detection, Detector, overlap
from wav2lip_npu.faces.likeness import Look, Other, likeness, look
from wav2lip_npu.faces.optical_flow import Pose
from wav2lip_npu.faces.track import Sighting
from wav2lip_npu.media.yuv_image import Box, YuvImage

_CROP, _WIDE_CROP = 1.7, 4.0
"""A face is measured on square crops of this many times its size; a wide one shows other faces near it."""
_ZOOM_RANGE = 1.2
"""One step of a detector's pyramid."""
# Zoom and shift of the views: any number of multiples of these, modulo 1, fill a cube evenly (Roberts 2018).
_SPREAD = np.array([0.8191725134, 0.6710436067, 0.5497004779])
_MIN_OVERLAP = 0.3
"""Overlap with the expected box from which a detection may be the face."""
_MAX_ODDS = 50.0
_MIN_OTHER_SCORE = 0.6


class FaceMeter:
    """Runs a detector on views of one face; successive views are spread over its steps and cells."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self._views = 0

    def measure(
        self, number: int, planes: YuvImage, box: Box, pose: Pose, known: Look | None = None
    ) -> Sighting | None:
        """Detect the face at a box; None if too few views show it.

        Of several faces there, the one is taken that is at the box and looks as `known`.
        """
        views = self._detector.views
        size = round(_CROP * self._detector.face_side)
        crops = [self._crop(box) for _ in range(views)]
        crops.append(_square(box, _WIDE_CROP))
        images = [planes.crop(crop, size) for crop in crops]
        detections = self._detector(images)
        found: list[Detection] = []
        seen: Look | None = None
        for crop, image, on_crop in zip(crops[:-1], images, detections, strict=False):
            best = None
            for face in on_crop:
                in_frame = face.from_crop(crop, size)
                fit = overlap(in_frame.box, box)
                if fit <= _MIN_OVERLAP:
                    continue
                view = None if face.landmarks is None else look(image, face.landmarks)
                like = 1.0 if view is None or known is None else max(0.1, likeness(view, known))
                if best is None or fit * face.score * like > best[0]:
                    best = (fit * face.score * like, in_frame, view)
            if best is not None:
                found.append(best[1])
                seen = best[2] if seen is None else seen
        if len(found) < max(1.0, views / 3):
            return None
        # A view that matches the steps of the detector scores higher and is more accurate.
        odds = np.array([face.score / (1.001 - face.score) for face in found])
        weights = np.minimum(odds, _MAX_ODDS) ** 1.5
        near = [
            (face.from_crop(crops[-1], size).box, face)
            for face in detections[-1]
            if face.score > _MIN_OTHER_SCORE
        ]
        return Sighting(
            number,
            np.average([pose.relative(face.box) for face in found], axis=0, weights=weights),
            len(found) / views,
            _mean_landmarks(found, pose, weights),
            seen,
            [
                Other(other, None if face.landmarks is None else look(images[-1], face.landmarks))
                for other, face in near
                if overlap(other, box) < _MIN_OVERLAP
            ],
        )

    def _crop(self, box: Box) -> Box:
        """Return the square around a face for the next view."""
        square = _square(box, _CROP)
        if self._detector.views == 1:
            return square
        zoom, *shift = _SPREAD * self._views % 1 - 0.5
        self._views += 1
        half = (square[2:] - square[:2]) / 2
        cell = self._detector.cell / self._detector.face_side
        centre = square[:2] + half + np.array(shift) * half * (2 * cell / _CROP)
        half = half * _ZOOM_RANGE**zoom
        return np.concatenate([centre - half, centre + half]).astype(np.float32)


def _square(box: Box, factor: float) -> Box:
    side = factor * float(max(box[2] - box[0], box[3] - box[1])) / 2
    centre = (box[:2] + box[2:]) / 2
    return np.concatenate([centre - side, centre + side]).astype(np.float32)


def _mean_landmarks(
    faces: Sequence[Detection], pose: Pose, weights: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """Return the mean landmarks of several views relative to the pose; None if one has none."""
    points = [pose.relative_points(face.landmarks) for face in faces if face.landmarks is not None]
    return np.average(points, axis=0, weights=weights) if len(points) == len(faces) else None
