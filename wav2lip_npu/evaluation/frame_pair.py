"""A frame of the generated video, and that of the original recording which is shown at the same time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from wav2lip_npu.data.clip_layout import FACE_SIZE
from wav2lip_npu.faces.detection import Landmarks
from wav2lip_npu.faces.tracker import TrackedFrame
from wav2lip_npu.media.yuv_image import Box, Image, YuvImage


@dataclass(frozen=True)
class Figure:
    """A figure of one video, and that of its original recording."""

    generated: float | None
    truth: float | None = None
    """None for a figure that compares both."""


@dataclass(frozen=True)
class FramePair:
    """Frames that are shown at the same time, 25 per second."""

    index: int
    generated: TrackedFrame
    truth: TrackedFrame | None = None
    silent: YuvImage | None = None
    """The frame of a video generated with silence."""

    @property
    def is_cut(self) -> bool:
        """Whether a new scene begins."""
        return self.generated.cut or (self.truth is not None and self.truth.cut)

    @property
    def box(self) -> Box | None:
        """The face in the original if there is one, else that in the generated frame."""
        return self.generated.box if self.truth is None else self.truth.box

    @property
    def landmarks(self) -> Landmarks | None:
        """The landmarks of that face."""
        return self.generated.landmarks if self.truth is None else self.truth.landmarks

    @property
    def both(self) -> tuple[YuvImage, YuvImage] | None:
        """The generated and the original frame, if they have the same size."""
        if self.truth is None:
            return None
        pair = self.generated.frame.yuv, self.truth.frame.yuv
        return pair if pair[0].y.shape == pair[1].y.shape else None

    @cached_property
    def faces(self) -> tuple[Image, Image] | None:
        """Crops of both frames at the box of the original, BGR uint8 [96, 96, 3]."""
        box, both = self.box, self.both
        if box is None or both is None:
            return None
        generated, truth = both
        return generated.crop(box, FACE_SIZE), truth.crop(box, FACE_SIZE)


class Measure(Protocol):
    """Measures a stream of frame pairs with constant memory."""

    def add(self, pair: FramePair) -> None:
        """Add the next pair."""

    def figures(self) -> dict[str, Figure]:
        """Return the figures by name; those that cannot be measured are missing."""
