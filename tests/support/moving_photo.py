"""A photo moved along a known path, so that the true place of its face in each frame is known."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.media.video_reader import Frame
from wav2lip_npu.media.yuv_image import Box, Colour, Image, YuvImage

SIZE = (640, 360)
Path = Callable[[int], tuple[float, float, float, float]]
"""frame -> x and y of the centre of the face in pixels, zoom, turn in degrees"""


def moving_photo(
    photo: Image, face: Box, path: Path, count: int, points: NDArray[np.float32] | None = None
) -> tuple[list[Frame], list[NDArray[np.float32]]]:
    """Return frames with a little noise and, of each, the true box of `face`, or the true `points` [K, 2]."""
    rng = np.random.default_rng(0)
    middle, half = (face[2:] + face[:2]) / 2, (face[2:] - face[:2]) / 2
    frames, true = [], []
    for i in range(count):
        x, y, zoom, turn = path(i)
        matrix = cv2.getRotationMatrix2D((float(middle[0]) - 0.5, float(middle[1]) - 0.5), turn, zoom)
        matrix[:, 2] += (x - middle[0], y - middle[1])
        image = cv2.warpAffine(photo, matrix, SIZE, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
        noisy = np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)
        frames.append(Frame(i, YuvImage.from_image(noisy, Colour()), i))
        if points is None:
            true.append(np.concatenate([(x, y) - zoom * half, (x, y) + zoom * half]).astype(np.float32))
        else:
            true.append(((points - 0.5) @ matrix[:, :2].T + matrix[:, 2] + 0.5).astype(np.float32))
    return frames, true
