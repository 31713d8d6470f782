"""Thumbnails of a face over a video."""

from __future__ import annotations

import cv2

from wav2lip_npu.data.clip_layout import FACE_SIZE
from wav2lip_npu.faces.tracker import TrackedFrame

_THUMBNAILS = 12


class Thumbnails:
    """Up to twelve evenly spaced pictures of the face."""

    def __init__(self) -> None:
        self.images: list[tuple[int, bytes]] = []
        self._stride, self._count = 1, 0

    def add(self, tracked: TrackedFrame) -> None:
        """Add a frame; every `_stride`-th with a face is kept."""
        if tracked.box is None:
            return
        if self._count % self._stride == 0:
            face = tracked.frame.yuv.crop(tracked.box, FACE_SIZE)
            jpeg = bytes(cv2.imencode(".jpg", face, [cv2.IMWRITE_JPEG_QUALITY, 85])[1])
            self.images.append((tracked.frame.index, jpeg))
            if len(self.images) > _THUMBNAILS:
                self.images, self._stride = self.images[::2], 2 * self._stride
        self._count += 1
