"""One frame of a live stream."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.media.yuv_image import Image, YuvImage


@dataclass(frozen=True, eq=False)
class LiveFrame:
    """One frame of a live stream: an image and its audio."""

    number: int
    """Number of the frame, from 0."""
    fps: Fraction
    """Frames per second of the stream."""
    yuv: YuvImage
    """The image as YUV 4:2:0, for encoders: H.264 needs no conversion."""
    audio: NDArray[np.int16]
    """int16 [samples], mono: the audio while this frame is shown."""
    sample_rate: int
    """Samples per second of the audio."""
    speaks: bool
    """Whether there is speech in the 0.2 s of audio from this frame on. False: the mouth is closed."""
    is_late: bool = False
    """Whether the device was too slow: the image is that of the frame before."""

    pushed: float | None = None
    """Time, as of `monotonic`, of the push of its first sample. None: its audio fills a gap."""

    @property
    def is_idle(self) -> bool:
        """Whether the audio is silence that fills a gap, see `paced_frames`."""
        return self.pushed is None

    @property
    def image(self) -> Image:
        """The image, BGR uint8 [H, W, 3], converted at each call."""
        return self.yuv.to_image()

    @property
    def time(self) -> Fraction:
        """Seconds from the beginning of the stream."""
        return self.number / self.fps
