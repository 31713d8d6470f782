"""Frames with a face at a known place, for the measures of an evaluation."""

from __future__ import annotations

import cv2
import numpy as np

from wav2lip_npu.faces.tracker import TrackedFrame
from wav2lip_npu.media.video_reader import Frame
from wav2lip_npu.media.yuv_image import Colour, YuvImage

BOX = np.array([40, 30, 120, 130], np.float32)
POINTS = np.array([[62, 66], [98, 66], [80, 86], [66, 104], [94, 104]], np.float32)


def texture(seed: int = 0, size: tuple[int, int] = (160, 160)) -> np.ndarray:
    small = np.random.default_rng(seed).integers(30, 220, (20, 20, 3), np.uint8)
    return cv2.resize(small, size, interpolation=cv2.INTER_CUBIC)


def tracked(image: np.ndarray, index: int = 0, box=BOX, points=POINTS) -> TrackedFrame:
    return TrackedFrame(Frame(index, YuvImage.from_image(image, Colour()), index), box, False, points)
