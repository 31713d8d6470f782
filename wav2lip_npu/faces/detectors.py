"""Load a face detector by name. Weights are never downloaded: an error names the path for missing ones."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Literal, get_args

import cv2
import numpy as np

from wav2lip_npu import signals
from wav2lip_npu.devices.device import HOST
from wav2lip_npu.errors import FaceError
from wav2lip_npu.faces.detection import Detection, Detector
from wav2lip_npu.faces.retinaface import RetinaFaceDetector, load_retinaface
from wav2lip_npu.faces.s3fd import S3FD_PATHS, S3fdDetector, find_weights, load_s3fd
from wav2lip_npu.media.yuv_image import Box, Image
from wav2lip_npu.storage.outputs import InputPath

DetectorName = Literal["auto", "hog", "retinaface", "s3fd"]
WITHOUT_LANDMARKS: tuple[DetectorName, ...] = ("hog", "s3fd")

# From dlib's square HOG box (brows to chin, cheek to cheek) to S3FD's, in units of the square's side:
# fitted on one photo and checked by eye on 15 photos and clips.
_HOG_WIDTH, _HOG_HEIGHT, _HOG_DOWN = 1.10, 1.25, -0.07
_HOG_MIN_SCORE = -0.4
"""SVM score of dlib. dlib's own threshold is 0, which becomes a confidence of 0.5."""


def load_detector(name: str, device: str = HOST) -> Detector:
    """Return the detector with this name; `device` applies to detectors that run on torch.

    Raises `FaceError` for an unknown name and for missing or damaged weights.
    """
    if name in ("auto", "retinaface"):
        return RetinaFaceDetector(load_retinaface(), device)
    if name == "hog":
        return HogDetector()
    if name == "s3fd":
        return S3fdDetector(load_s3fd(), device)
    raise FaceError(f"unknown face detector {name!r}. Choose one of: {', '.join(get_args(DetectorName))}.")


def weights_files() -> dict[str, list[Path]]:
    """Return the weights files that each detector needs, whether they exist or not."""
    return {"hog": [], "retinaface": [], "s3fd": [find_weights() or S3FD_PATHS[0]]}


def detector_inputs() -> list[InputPath]:
    """Return the weights files of all detectors, for `check_outputs`."""
    return [
        InputPath(f"weights of {name}", path) for name, paths in weights_files().items() for path in paths
    ]


class HogDetector:
    """The frontal face detector of dlib: gradient histograms, weights inside the library, 80 ns per pixel.

    Thread-safe: a dlib detector holds the image that it scans, so each concurrent call has its own detector.
    """

    name = "hog"
    # The template is 80 px wide, so at 720 px it detects a face of a ninth of the short side.
    short_side = 720
    # A face slightly larger than the template has a pyramid level on either side of its own.
    face_side = 112
    # The pyramid steps by 1.2 in size and by 8 px in position. Crops that step by 1.2 ** (1 / views)
    # average that out.
    views, cell = 7, 10

    def __init__(self) -> None:
        import dlib

        self._run = dlib.fhog_object_detector.run
        self._original = _dlib_detector()
        self._idle: SimpleQueue[Any] = SimpleQueue()

    def __call__(self, images: Sequence[Image]) -> list[list[Detection]]:
        """See `Detector`."""
        return [self._detect(image) for image in images]

    def _detect(self, image: Image) -> list[Detection]:
        signals.check()
        gray = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        try:
            detector = self._idle.get_nowait()
        except Empty:
            detector = copy.copy(self._original)
        boxes, scores, _ = self._run(detector, gray, 0, _HOG_MIN_SCORE)
        self._idle.put(detector)
        return [
            Detection(
                hog_to_s3fd(box.left(), box.top(), box.right() + 1, box.bottom() + 1),
                1 / (1 + math.exp(-2 * score)),
            )
            for box, score in zip(boxes, scores, strict=True)
        ]


@functools.cache
def _dlib_detector() -> Any:
    """Return dlib's detector, one per process: creating it takes 0.2 s, copying it 2 ms.

    It is only copied, never run, because dlib must not change it during a copy.
    """
    import dlib

    return dlib.get_frontal_face_detector()


def hog_to_s3fd(left: float, top: float, right: float, bottom: float) -> Box:
    """Return dlib's square box in the convention of S3FD, float32 [4] in the same pixels."""
    side = 0.5 * (right - left + bottom - top)
    x, y = 0.5 * (left + right), 0.5 * (top + bottom) + _HOG_DOWN * side
    half_width, half_height = 0.5 * _HOG_WIDTH * side, 0.5 * _HOG_HEIGHT * side
    return np.array([x - half_width, y - half_height, x + half_width, y + half_height], np.float32)
