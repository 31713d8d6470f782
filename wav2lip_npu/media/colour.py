"""Colour matrices and ranges of YUV values, and their labels in video files."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

Array = NDArray[Any]

# Weights of red and blue in luma: ITU-R BT.601-7, BT.709-6, BT.2020-2, SMPTE ST 240, FCC 73.682.
_LUMA_WEIGHTS = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020": (0.2627, 0.0593),
    "smpte240m": (0.212, 0.087),
    "fcc": (0.3, 0.11),
}
_YCGCO = np.array([[0.25, 0.5, 0.25], [-0.25, 0.5, -0.25], [-0.5, 0, 0.5]])
"""Y, Cg and Co of (B, G, R), ITU-T H.273."""
# By FFmpeg's matrix number. BT.2020 with constant luminance (10) equals non-constant (9) on grey.
_MATRIX = {1: "bt709", 4: "fcc", 7: "smpte240m", 8: "ycgco", 9: "bt2020", 10: "bt2020"}
_OF_PRIMARIES = {1: "bt709", 7: "smpte240m", 9: "bt2020"}
"""Matrices by primaries, for the matrix numbers in `_BY_PRIMARIES`."""
_BY_PRIMARIES = (12, 13)
_UNSPECIFIED = 2
_UNSUPPORTED = {11: "Y'D'zD'x", 14: "ICtCp", 15: "IPT-C2", 16: "YCgCo-Re", 17: "YCgCo-Ro"}


@dataclass(frozen=True)
class Colour:
    """Colour matrix and range of YUV values. Unlabelled video is BT.601, as in FFmpeg and OpenCV."""

    matrix: str = "bt601"
    full_range: bool = False
    labels: tuple[int, int, int, int] = (0, 2, 2, 2)
    """FFmpeg's numbers for range, matrix, primaries and transfer, passed on to the encoder."""

    @classmethod
    def from_frame(cls, frame: VideoFrame) -> Colour:
        """Return the labels of a decoded YUV or grey frame. Unlabelled grey is full range, as in FFmpeg."""
        name, label, space = frame.format.name, int(frame.color_range), int(frame.colorspace)
        space = space or _UNSPECIFIED  # 0 is RGB
        primaries = int(frame.color_primaries)
        full = (
            label == 2 or name.startswith("yuvj") or (label == 0 and name.startswith(("gray", "ya", "mono")))
        )
        labels = (2 if full else label, space, primaries, int(frame.color_trc))
        # Like FFmpeg, treat other matrices as BT.601.
        matrix = _OF_PRIMARIES.get(primaries) if space in _BY_PRIMARIES else _MATRIX.get(space)
        return cls(matrix or "bt601", full, labels)

    @property
    def white(self) -> int:
        """Luma of white."""
        return 255 if self.full_range else 235


SCREEN = Colour("bt709", False, (1, 1, 1, 1))
"""Matrix and range to which RGB images are converted."""


def unsupported_matrix(frame: VideoFrame) -> str | None:
    """Return the name of the colour matrix of a frame, or `None` if it can be converted to RGB."""
    return None if frame.format.is_rgb else _UNSUPPORTED.get(int(frame.colorspace))


@cache
def _bgr_to_yuv(colour: Colour) -> Array:
    """Return float64 [3, 4], which maps (B, G, R, 1) in 0..255 to (Y, U, V) in 0..255."""
    if colour.matrix == "ycgco":
        luma, cb, cr = _YCGCO
    else:
        red, blue = _LUMA_WEIGHTS[colour.matrix]
        luma = np.array([blue, 1 - red - blue, red])
        cb = (np.array([1.0, 0, 0]) - luma) / (2 * (1 - blue))
        cr = (np.array([0, 0, 1.0]) - luma) / (2 * (1 - red))
    y_scale, c_scale, y_zero = (1, 1, 0) if colour.full_range else (219 / 255, 224 / 255, 16)
    rows = np.stack([luma * y_scale, cb * c_scale, cr * c_scale])
    return np.column_stack([rows, [y_zero, 128, 128]])


@cache
def _yuv_to_bgr(colour: Colour) -> Array:
    """Return float64 [3, 4], the inverse of `_bgr_to_yuv`."""
    square = np.vstack([_bgr_to_yuv(colour), [0, 0, 0, 1]])
    inverse: Array = np.linalg.inv(square)[:3]
    return inverse


def to_yuv(image: Array, colour: Colour) -> Array:
    """Convert BGR [H, W, 3] to YUV 4:4:4 [H, W, 3] of the same dtype (uint8 saturates, float32 does not)."""
    yuv: Array = cv2.transform(image, _bgr_to_yuv(colour))
    return yuv


def to_bgr(yuv: Array, colour: Colour) -> Array:
    """Convert YUV 4:4:4 [H, W, 3] to BGR [H, W, 3] of the same dtype (uint8 saturates)."""
    bgr: Array = cv2.transform(yuv, _yuv_to_bgr(colour))
    return bgr
