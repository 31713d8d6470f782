"""Resize, rotate and crop whole frames."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.errors import UsageError
from wav2lip_npu.media.orientation import Orientation
from wav2lip_npu.media.yuv_image import Array, YuvImage
from wav2lip_npu.options import check_range, check_types, nested_by_name

_WHOLE_FRAME = (0, -1, 0, -1)
_MAX_FACTOR = 100
_CROP_ADVICE = "Pass TOP BOTTOM LEFT RIGHT inside the frame, -1 for the far edge."


@nested_by_name
@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Changes to the size and orientation of each frame, applied in this order."""

    resize_factor: int = 1
    """Integer by which to divide the frame size."""
    rotate: bool = False
    """Rotate the frames 90 degrees clockwise, in addition to the rotation in the metadata."""
    crop: tuple[int, int, int, int] = _WHOLE_FRAME
    """Crop each frame to rows TOP to BOTTOM and columns LEFT to RIGHT; -1 is the far edge."""

    def __post_init__(self) -> None:
        check_types(self)
        check_range(self, "resize_factor", 1, _MAX_FACTOR)
        top, bottom, left, right = self.crop
        if not (top >= 0 and left >= 0 and (top < bottom or bottom == -1) and (left < right or right == -1)):
            raise UsageError(f"{self._crop_flag} is empty or negative. {_CROP_ADVICE}")

    def apply(self, yuv: YuvImage) -> YuvImage:
        """Return the frame resized, rotated and cropped. Raises `UsageError` for a crop outside the frame."""
        if self.resize_factor > 1:
            yuv = shrink(yuv, self.resize_factor)
        if self.rotate:
            yuv = rotate(yuv, -1)
        if self.crop != _WHOLE_FRAME:
            top, bottom, left, right = self.crop
            bottom = yuv.height if bottom == -1 else bottom
            right = yuv.width if right == -1 else right
            if not (0 <= top < bottom <= yuv.height and 0 <= left < right <= yuv.width):
                size = f"{yuv.width}x{yuv.height}"
                raise UsageError(f"{self._crop_flag} is outside the frame of {size}. {_CROP_ADVICE}")
            yuv = crop(yuv, top, bottom, left, right)
        return yuv

    @property
    def _crop_flag(self) -> str:
        return f"--crop {' '.join(map(str, self.crop))}"


def shrink(yuv: YuvImage, factor: int) -> YuvImage:
    """Return the image shrunk by an integer factor, with even sides; each pixel is the mean of its area."""
    half = max(1, round(yuv.width / factor / 2)), max(1, round(yuv.height / factor / 2))
    full = half[0] * 2, half[1] * 2
    y, u, v = (
        cv2.resize(plane, size, interpolation=cv2.INTER_AREA)
        for plane, size in ((yuv.y, full), (yuv.u, half), (yuv.v, half))
    )
    return YuvImage.padded(y, u, v, yuv.colour)


def rotate(yuv: YuvImage, quarters: int) -> YuvImage:
    """Return the image rotated counter-clockwise by a number of quarter turns."""
    y, u, v = (np.ascontiguousarray(np.rot90(plane, quarters)) for plane in (yuv.y, yuv.u, yuv.v))
    return YuvImage(y, u, v, yuv.colour)


def mirror(yuv: YuvImage) -> YuvImage:
    """Return the image mirrored left to right."""
    y, u, v = (np.ascontiguousarray(plane[:, ::-1]) for plane in (yuv.y, yuv.u, yuv.v))
    return YuvImage(y, u, v, yuv.colour)


def upright(yuv: YuvImage, orientation: Orientation) -> YuvImage:
    """Return the image as players show it."""
    if orientation.mirrored:
        yuv = mirror(yuv)
    return rotate(yuv, orientation.quarters) if orientation.quarters else yuv


def crop(yuv: YuvImage, top: int, bottom: int, left: int, right: int) -> YuvImage:
    """Return rows top..bottom and columns left..right; luma is exact, chroma is averaged at odd offsets."""
    y = yuv.y[top:bottom, left:right]
    u, v = (_crop_chroma(plane, top, bottom, left, right) for plane in (yuv.u, yuv.v))
    y, u, v = map(np.ascontiguousarray, (y, u, v))
    return YuvImage.padded(y, u, v, yuv.colour)


def _crop_chroma(plane: NDArray[np.uint8], top: int, bottom: int, left: int, right: int) -> Array:
    """Return the part of a chroma plane that a crop of the luma needs."""
    if top % 2 == 0 and left % 2 == 0:
        return plane[top // 2 : (bottom + 1) // 2, left // 2 : (right + 1) // 2]
    fine: Array = plane.repeat(2, axis=0).repeat(2, axis=1)[top:bottom, left:right]
    height, width = fine.shape
    fine = cv2.copyMakeBorder(fine, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    halved: Array = cv2.resize(fine, ((width + 1) // 2, (height + 1) // 2), interpolation=cv2.INTER_AREA)
    return halved
