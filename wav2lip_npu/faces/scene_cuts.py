"""Detect scene cuts between consecutive frames, on small copies of their luma."""

from __future__ import annotations

from typing import cast

import cv2
import numpy as np

from wav2lip_npu.faces.optical_flow import Luma, track_points
from wav2lip_npu.media.yuv_image import YuvImage

_SHORT_SIDE = 96
_MIN_POINTS = 10
_MIN_TRACKED = 0.35
"""Share of corners that can be tracked within a scene. Across a cut, few can."""
_MIN_CORRELATION = 0.6
"""Minimum correlation of the centre of a frame with the next frame, when a pan is too fast for corners."""


class SceneCuts:
    """Compares each frame with the previous one."""

    def __init__(self) -> None:
        self._last: Luma | None = None
        self._shape: tuple[int, ...] = ()

    def is_cut(self, frame: YuvImage) -> bool:
        """Return whether a new scene begins with this frame."""
        last, self._last = self._last, None
        shape, self._shape = self._shape, frame.y.shape
        if min(self._shape) < 1:
            return False
        self._last = thumbnail(frame.y)
        return last is not None and (shape != self._shape or is_cut(last, self._last))


def thumbnail(luma: Luma) -> Luma:
    """Return a copy, uint8, whose short side is about 96 px.

    It is the mean of squares of an integer number of pixels, which OpenCV computes fastest.
    """
    stride = max(1, min(luma.shape) // (3 * _SHORT_SIDE))
    thinned = luma[::stride, ::stride]
    factor = max(1, round(min(thinned.shape) / _SHORT_SIDE))
    height, width = (side // factor for side in thinned.shape)
    whole = np.ascontiguousarray(thinned[: height * factor, : width * factor])
    return cast(Luma, cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA))


def is_cut(before: Luma, after: Luma) -> bool:
    """Return whether two thumbnails show different scenes; a fast pan is one scene."""
    if before.shape != after.shape:
        return True
    change = float(np.mean(cv2.absdiff(before, after)))
    contrast = 0.5 * (float(before.std()) + float(after.std()))
    if change < 0.3 * contrast + 2:
        return False
    start = cv2.goodFeaturesToTrack(before, 80, 0.01, 5, blockSize=5)
    if start is None or len(start) < _MIN_POINTS:
        return True
    _, tracked = track_points(before, after, start, np.zeros(2, np.float32))
    if tracked.mean() >= _MIN_TRACKED:
        return False
    height, width = before.shape
    centre = before[height // 4 : height - height // 4, width // 4 : width - width // 4]
    return float(cv2.matchTemplate(after, centre, cv2.TM_CCOEFF_NORMED).max()) < _MIN_CORRELATION
