"""Small videos of a face that moves steadily, with audio."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from support.media_files import chirp, write_frames
from wav2lip_npu.media.yuv_image import Image

SPEED = 50
"""Pixels per second that the face moves to the right."""
FAST = {"preset": "ultrafast", "crf": "14"}


def face(side: int = 180) -> Image:
    """Return a square image of a face."""
    import skimage.data

    image = np.ascontiguousarray(skimage.data.astronaut()[20:200, 130:310, ::-1])
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)


def face_images(times: list[float], *, side: int = 180, faces: int = 1) -> Iterator[Image]:
    """Yield images of 240 lines; further faces are to the right of the first."""
    one = face(side)
    for time in times:
        image = np.full((240, 200 + side * (faces - 1) + 120, 3), 110, np.uint8)
        for number in range(faces):
            left = round(20 + SPEED * time) + number * (side + 20)
            image[30 : 30 + side, left : left + side] = one[:, : max(0, image.shape[1] - left)]
        yield image


def write_talk(
    path: Path, seconds: float = 1.0, *, fps: Fraction = Fraction(25), silent: bool = False, **more: Any
) -> Path:
    """Write a video with a chirp as audio; extra options go to `face_images` and `write_frames`."""
    drawn = {name: more.pop(name) for name in ("side", "faces") if name in more}
    times = [number / float(fps) for number in range(round(seconds * fps))]
    more.setdefault("audio", np.zeros(round(seconds * 16_000), np.float32) if silent else chirp(seconds))
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_frames(path, face_images(times, **drawn), fps=fps, options=FAST, **more)
