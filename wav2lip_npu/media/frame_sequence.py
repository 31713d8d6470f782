"""Frames in memory, in place of a video file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import cv2
import numpy as np

from wav2lip_npu.errors import UsageError
from wav2lip_npu.media.container import VideoInfo
from wav2lip_npu.media.yuv_image import SCREEN, Image, YuvImage

Numbered = tuple[int, YuvImage]
"""Number of a frame in the face video, and its image."""


@dataclass(frozen=True, kw_only=True)
class FrameSequence(VideoInfo):
    """A video whose frames are given. A sequence of one frame is a still image.

    Frames are converted when they are read, so `images` may compute each one on demand.
    """

    images: Sequence[Image] = field(repr=False)
    """Frames uint8 [H, W, 3] in RGB order."""

    @classmethod
    def of(cls, images: Sequence[Image], fps: Fraction) -> FrameSequence:
        """Return the sequence as the properties of a video. Raises `UsageError`."""
        if not len(images):
            raise UsageError("frames is empty. Pass at least one.")
        height, width = _checked(images, 0, None).shape[:2]
        return cls(
            path="the frames",
            kind="image" if len(images) == 1 else "video",
            width=width,
            height=height,
            fps=fps,
            frames=len(images),
            images=images,
        )

    @property
    def length(self) -> int:
        """Number of frames."""
        return len(self.images)

    @property
    def last(self) -> Numbered:
        """Number and image of the last frame."""
        return self.length - 1, self._convert(self.length - 1)

    def image(self, number: int) -> Image:
        """Return a frame in RGB order. Raises `UsageError` if it is not an image of the size of the first."""
        return _checked(self.images, number, (self.height, self.width))

    def first_pass(self, start: int = 0) -> Iterator[Numbered]:
        """Yield number and image of all frames from `start` on."""
        return self.replay(start, self.length)

    def replay(self, start: int, stop: int) -> Iterator[Numbered]:
        """Yield number and image of frames start..stop."""
        return ((number, self._convert(number)) for number in range(start, stop))

    def backwards(self, start: int, stop: int) -> Iterator[Numbered]:
        """Yield number and image of frames start..stop from last to first."""
        return ((number, self._convert(number)) for number in reversed(range(start, stop)))

    def _convert(self, number: int) -> YuvImage:
        bgr: Any = cv2.cvtColor(np.ascontiguousarray(self.image(number)), cv2.COLOR_RGB2BGR)
        return YuvImage.from_image(bgr, SCREEN)


def _checked(images: Sequence[Image], number: int, size: tuple[int, int] | None) -> Image:
    image: Any = images[number]
    is_image = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3
    if not is_image or image.shape[2] != 3 or not image.size or image.shape[:2] != (size or image.shape[:2]):
        what = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
        wanted = "H, W" if size is None else f"{size[0]}, {size[1]}"
        raise UsageError(f"frame {number} is {what}. Pass frames uint8 [{wanted}, 3] in RGB order.")
    checked: Image = image
    return checked
