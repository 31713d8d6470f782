"""Face detections: their type, the detector protocol, and detection in whole frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.media.yuv_image import Box, Image, YuvImage

Landmarks = NDArray[np.float32]
"""float32 [5, 2], x y in pixels: eyes, nose and corners of the mouth, each from left to right in the image"""
MIN_SCORE = 0.5
"""Minimum score of a detection that starts a track."""
MIN_SIDE = 16
"""Pixels. No faces are detected in smaller frames."""
_MAX_ENLARGEMENT = 2.0
"""Largest factor by which a frame is enlarged for detection: larger ones add no detail."""


@dataclass(frozen=True)
class Detection:
    """A detected face."""

    box: Box
    score: float
    """Confidence in [0, 1]. Detectors accept a face from 0.5 on."""
    landmarks: Landmarks | None = None
    """None if the detector gives none."""

    def scaled(self, x: float, y: float) -> Detection:
        """Return the detection in an image that is enlarged by these factors."""
        factors = np.array([x, y], np.float32)
        landmarks = None if self.landmarks is None else self.landmarks * factors
        return Detection(self.box * np.tile(factors, 2), self.score, landmarks)

    def from_crop(self, crop: Box, size: int) -> Detection:
        """Return the detection in the image of which this one shows the square `crop` at `size` pixels."""
        unit = float(crop[2] - crop[0]) / size
        landmarks = None if self.landmarks is None else self.landmarks * unit + crop[:2]
        return Detection(self.box * unit + np.tile(crop[:2], 2), self.score, landmarks)


class Detector(Protocol):
    """Detects faces in images.

    All detectors return boxes in the convention of S3FD: forehead, cheeks and chin, without ears and hair.
    To add a detector, write a class with these members and return it from `load_detector`. Several threads
    may call one detector at the same time.
    """

    name: str
    """Name in `--detector`."""
    short_side: int
    """Pixels. Faces in a whole frame are detected on a copy of this size."""
    face_side: int
    """Pixels. A single face is measured most accurately at this size."""
    views: int
    """Crops at slightly different scales and positions whose boxes are averaged into one.

    Above 1 for a detector whose boxes depend on where the face lies on the grid of its cells.
    """
    cell: int
    """Pixels after which that grid repeats: views are shifted over this distance. Unused for one view."""

    def __call__(self, images: Sequence[Image]) -> list[list[Detection]]:
        """Return the faces of each image, BGR uint8 [H, W, 3], in its pixels.

        Detections that score below 0.5 confirm a face that is already tracked, and never start a track.
        """
        ...


def search_frames(frames: Sequence[YuvImage], detector: Detector) -> list[list[Detection]]:
    """Return all faces of each frame, in its pixels, detected on a copy of `detector.short_side`."""
    detections: list[list[Detection]] = [[] for _ in frames]
    usable = [i for i, frame in enumerate(frames) if min(frame.width, frame.height) >= MIN_SIDE]
    copies = [_scaled(frames[i], detector.short_side) for i in usable]
    for i, copy, on_copy in zip(usable, copies, detector(copies) if copies else [], strict=True):
        x, y = frames[i].width / copy.shape[1], frames[i].height / copy.shape[0]
        detections[i] = [detection.scaled(x, y) for detection in on_copy]
    return detections


def _scaled(frame: YuvImage, short_side: int) -> Image:
    scale = min(_MAX_ENLARGEMENT, short_side / min(frame.width, frame.height))
    return frame.scaled(max(1, round(frame.width * scale)), max(1, round(frame.height * scale)))


def eyes_and_mouth(landmarks: Landmarks) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the points in the middle between the eyes and between the corners of the mouth, [2] each."""
    return landmarks[:2].mean(axis=0), landmarks[3:].mean(axis=0)


def overlap(a: Box, b: Box) -> float:
    """Return the intersection over union of two boxes."""
    common = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
    areas = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])
    return float(common / max(float(areas - common), 1e-9))
