"""A film of two people who can be told apart, a detector for them, and voices for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from support.media_files import write_frames
from wav2lip_npu.faces.detection import Detection
from wav2lip_npu.media.yuv_image import Image

SIDE = 96
SIZE = (320, 144)
LEFT, RIGHT = 30, 190
GREY = 110
FAST = {"preset": "ultrafast", "crf": "0"}
Places = Callable[[int], dict[str, int]]
"""frame -> left edge of the face of each person who is seen"""


def faces() -> dict[str, Image]:
    """Return the faces of anna and ben, uint8 [SIDE, SIDE, 3]; no pixel is as grey as the background."""
    import skimage.data

    images = {
        "anna": skimage.data.astronaut()[20:200, 130:310, ::-1],
        "ben": skimage.data.chelsea()[20:260, 110:350, ::-1],
    }
    small = {
        name: cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for name, image in images.items()
    }
    return {
        name: np.where(image > GREY, np.maximum(image, GREY + 30), image // 2)
        for name, image in small.items()
    }


def both(frame: int) -> dict[str, int]:
    """Return the places of anna on the left and ben on the right, who move a little."""
    step = frame % 3
    return {"anna": LEFT + step, "ben": RIGHT - step}


def write_film(path: Path, frames: int = 30, places: Places = both, audio: np.ndarray | None = None) -> Path:
    """Write a lossless film at 25 fps, with audio at 16 kHz."""
    drawn = faces()

    def images() -> list[Image]:
        result = []
        for number in range(frames):
            image = np.full((SIZE[1], SIZE[0], 3), GREY, np.uint8)
            for name, left in places(number).items():
                image[24 : 24 + SIDE, left : left + SIDE] = drawn[name]
            result.append(image)
        return result

    return write_frames(path, images(), options=FAST, audio=audio)


@dataclass
class PeopleDetector:
    """Detects each patch that differs from the grey background."""

    name: str = "patches"
    short_side: int = SIZE[1]
    face_side: int = SIDE
    views: int = 1
    cell: int = 1

    def __call__(self, images: Sequence[Image]) -> list[list[Detection]]:
        """Return the faces of each image, the rightmost first."""
        return [self._find(image) for image in images]

    @staticmethod
    def _find(image: Image) -> list[Detection]:
        differs = (np.abs(image.astype(int) - GREY).max(axis=2) > 12).astype(np.uint8)
        closed = cv2.morphologyEx(differs, cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8))
        count, _, boxes, _ = cv2.connectedComponentsWithStats(closed)
        large = [box[:4].astype(np.float32) for box in boxes[1:count] if box[4] > 400]
        return [
            Detection(np.concatenate([box[:2], box[:2] + box[2:]]), 1.0)
            for box in sorted(large, key=lambda box: -box[0])
        ]
