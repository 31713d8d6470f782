"""The face crops of the published evaluation: `run_pipeline.py` of github.com/joonson/syncnet_python."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.evaluation.options import Crop
from wav2lip_npu.media.yuv_image import Box, Image, YuvImage
from wav2lip_npu.models.syncnet_v2 import SIZE

MIN_TRACK: dict[Crop, int] = {"upstream": 100, "latentsync": 50, "whole": 0}
"""A track must have more frames than this. LatentSync's evaluation differs from the published one only in
this."""
MIN_FACE = 100
"""Pixels. The mean side of the faces of a track must exceed this."""
_MEDIAN = 13
"""Frames of the median filter over centres and sizes."""
_SCALE = 0.4
_GREY = 110
"""Value around the frame."""


class FaceCrops:
    """Crops of one track, BGR uint8 [224, 224, 3]; each comes six frames after its frame.

    Centre and size are filtered by a median over 13 frames, with zeros before the first and after the last
    frame, as in SciPy's `medfilt`. So the first and last crops are smaller.
    """

    def __init__(self) -> None:
        self._frames: deque[YuvImage] = deque()
        self._values: deque[NDArray[np.float64]] = deque([np.zeros(3)] * (_MEDIAN // 2), _MEDIAN)
        self._sides: list[float] = [0.0, 0.0]
        self._count = 0

    @property
    def is_large(self) -> bool:
        """Whether the mean side of the faces is large enough for the published evaluation."""
        return bool(max(self._sides) > MIN_FACE * self._count)

    def push(self, frame: YuvImage, box: Box) -> Iterator[Image]:
        """Add the next frame of the track; yield the crop that is complete, if any."""
        x1, y1, x2, y2 = (float(edge) for edge in box)
        self._sides = [self._sides[0] + x2 - x1, self._sides[1] + y2 - y1]
        self._count += 1
        self._frames.append(frame)
        yield from self._add(np.array([max(y2 - y1, x2 - x1) / 2, (x1 + x2) / 2, (y1 + y2) / 2]))

    def flush(self) -> Iterator[Image]:
        """Yield the remaining crops."""
        while self._frames:
            yield from self._add(np.zeros(3))

    def _add(self, values: NDArray[np.float64]) -> Iterator[Image]:
        self._values.append(values)
        if len(self._values) == _MEDIAN:
            half, x, y = np.median(np.array(self._values), axis=0)
            yield crop(self._frames.popleft(), half, x, y)


def crop(frame: YuvImage, half: float, x: float, y: float) -> Image:
    """Return the square of a face: 1.4 half sides to left and right, 1 above and 1.8 below its centre."""
    margin = int(half * (1 + 2 * _SCALE))
    x, y = x + margin, y + margin
    top, bottom = int(y - half) - margin, int(y + half * (1 + 2 * _SCALE)) - margin
    left, right = int(x - half * (1 + _SCALE)) - margin, int(x + half * (1 + _SCALE)) - margin
    bottom, right = min(bottom, frame.height + margin), min(right, frame.width + margin)
    return resized(_padded(frame.to_image(), max(top, -margin), bottom, max(left, -margin), right))


def whole(frame: YuvImage) -> Image:
    """Return the whole frame, as in the LRS protocol of Wav2Lip, whose videos are face crops."""
    return resized(frame.to_image())


def resized(image: Image) -> Image:
    """Return an image at 224 x 224 pixels."""
    return np.asarray(cv2.resize(image, (SIZE, SIZE)), np.uint8)


def _padded(image: Image, top: int, bottom: int, left: int, right: int) -> Image:
    """Return rows top..bottom and columns left..right of an image that is surrounded by grey."""
    bottom, right = max(bottom, top + 1), max(right, left + 1)
    inside = image[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    above, before = min(max(-top, 0), bottom - top), min(max(-left, 0), right - left)
    below, after = bottom - top - above - inside.shape[0], right - left - before - inside.shape[1]
    if not inside.size:
        return np.full((bottom - top, right - left, 3), _GREY, np.uint8)
    padded = cv2.copyMakeBorder(
        inside, above, below, before, after, cv2.BORDER_CONSTANT, value=(_GREY, _GREY, _GREY)
    )
    return np.asarray(padded, np.uint8)
