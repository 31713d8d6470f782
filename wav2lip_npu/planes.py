"""A video image as the codec holds it: three planes, YUV 4:2:0, 8 bits.

Frames stay in this form from the decoder to the encoder. Only the face is ever turned into BGR, so a
pixel that the mouth does not cover reaches the encoder with the very bits that were decoded, colour
range and matrix included, and a frame costs 1.5 bytes a pixel instead of 3 and two conversions.

`Image` is uint8 [H, W, 3] in BGR order, the order that the networks were trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
"""uint8 [H, W, 3], BGR"""
Box = NDArray[np.float32]
"""float32 [4], x1 y1 x2 y2 in pixels, half-open"""
Array = NDArray[Any]

# Weights of red and blue in luma: ITU-R BT.601-7, BT.709-6, BT.2020-2, SMPTE ST 240.
_LUMA_WEIGHTS = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020": (0.2627, 0.0593),
    "smpte240m": (0.212, 0.087),
}


@dataclass(frozen=True)
class Colour:
    """How YUV numbers mean a colour. Unlabelled video is read as BT.601, as FFmpeg and OpenCV do."""

    matrix: str = "bt601"
    full_range: bool = False
    labels: tuple[int, int, int, int] = (0, 2, 2, 2)
    """FFmpeg's numbers of range, matrix, primaries and transfer, to hand on to the encoder."""


@cache
def _bgr_to_yuv(colour: Colour) -> Array:
    """float64 [3, 4]: (B, G, R, 1) in 0..255 to (Y, U, V) in 0..255."""
    red, blue = _LUMA_WEIGHTS[colour.matrix]
    luma = np.array([blue, 1 - red - blue, red])
    cb = (np.array([1.0, 0, 0]) - luma) / (2 * (1 - blue))
    cr = (np.array([0, 0, 1.0]) - luma) / (2 * (1 - red))
    y_scale, c_scale, y_zero = (1, 1, 0) if colour.full_range else (219 / 255, 224 / 255, 16)
    rows = np.stack([luma * y_scale, cb * c_scale, cr * c_scale])
    return np.column_stack([rows, [y_zero, 128, 128]])


@cache
def _yuv_to_bgr(colour: Colour) -> Array:
    """float64 [3, 4], the inverse of `_bgr_to_yuv`."""
    square = np.vstack([_bgr_to_yuv(colour), [0, 0, 0, 1]])
    inverse: Array = np.linalg.inv(square)[:3]
    return inverse


def to_yuv(image: Array, colour: Colour) -> Array:
    """BGR [H, W, 3] to YUV 4:4:4 [H, W, 3] of the same dtype (uint8 saturates, float32 does not)."""
    yuv: Array = cv2.transform(image, _bgr_to_yuv(colour))
    return yuv


@dataclass(frozen=True)
class Planes:
    """One video image: `y` uint8 [H, W], `u` and `v` uint8 [H/2, W/2]; H and W are even."""

    y: NDArray[np.uint8]
    u: NDArray[np.uint8]
    v: NDArray[np.uint8]
    colour: Colour

    @property
    def width(self) -> int:
        """Luma columns."""
        return int(self.y.shape[1])

    @property
    def height(self) -> int:
        """Luma rows."""
        return int(self.y.shape[0])

    @property
    def nbytes(self) -> int:
        """Bytes of pixels held."""
        return self.y.nbytes + self.u.nbytes + self.v.nbytes

    @classmethod
    def from_image(cls, image: Image, colour: Colour) -> Planes:
        """Planes of a BGR image; an odd last row or column is doubled, so that no pixel is lost."""
        height, width = image.shape[:2]
        even = cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        y, u, v = cv2.split(to_yuv(even, colour))
        half = (even.shape[1] // 2, even.shape[0] // 2)
        shrink = [cv2.resize(plane, half, interpolation=cv2.INTER_AREA) for plane in (u, v)]
        return cls(y, shrink[0], shrink[1], colour)

    @classmethod
    def padded(cls, y: Array, u: Array, v: Array, colour: Colour) -> Planes:
        """Planes whose luma may have an odd side, as a codec hands them out: that side is doubled."""
        height, width = y.shape
        if height % 2 or width % 2:
            y = cv2.copyMakeBorder(y, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        return cls(y, u, v, colour)

    def copy(self) -> Planes:
        """The same picture in memory of its own."""
        return Planes(self.y.copy(), self.u.copy(), self.v.copy(), self.colour)

    def rotated(self, quarters: int) -> Planes:
        """Turned counter-clockwise by quarters of a circle."""
        turned = (np.ascontiguousarray(np.rot90(plane, quarters)) for plane in (self.y, self.u, self.v))
        return Planes(*turned, self.colour)

    def shrunk(self, factor: int) -> Planes:
        """Smaller by a whole factor, to even sides, each pixel the mean of those it stands for."""
        half = max(1, round(self.width / factor / 2)), max(1, round(self.height / factor / 2))
        full = half[0] * 2, half[1] * 2
        y, u, v = (
            cv2.resize(plane, size, interpolation=cv2.INTER_AREA)
            for plane, size in ((self.y, full), (self.u, half), (self.v, half))
        )
        return Planes(y, u, v, self.colour)

    def cropped(self, top: int, bottom: int, left: int, right: int) -> Planes:
        """Rows top..bottom and columns left..right, exact in luma; odd offsets average the chroma."""
        y = self.y[top:bottom, left:right]
        if top % 2 == 0 and left % 2 == 0:
            chroma = slice(top // 2, (bottom + 1) // 2), slice(left // 2, (right + 1) // 2)
            u, v = self.u[chroma], self.v[chroma]
        else:
            height, width = y.shape
            u, v = (
                cv2.resize(
                    cv2.copyMakeBorder(
                        plane.repeat(2, axis=0).repeat(2, axis=1)[top:bottom, left:right],
                        0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE,
                    ),
                    ((width + 1) // 2, (height + 1) // 2),
                    interpolation=cv2.INTER_AREA,
                )
                for plane in (self.u, self.v)
            )  # fmt: skip
        contiguous = (np.ascontiguousarray(plane) for plane in (y, u, v))
        return Planes.padded(*contiguous, self.colour)

    def to_image(self) -> Image:
        """The whole picture as BGR uint8 [H, W, 3]."""
        return self.scaled(self.width, self.height)

    def scaled(self, width: int, height: int) -> Image:
        """The whole picture as BGR uint8 [height, width, 3], area-averaged where it shrinks."""
        shrinks = width < self.width
        luma = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        chroma = cv2.INTER_AREA if width < self.width // 2 else cv2.INTER_LINEAR
        size = (width, height)
        return self._bgr(
            self.y if size == (self.width, self.height) else cv2.resize(self.y, size, interpolation=luma),
            cv2.resize(self.u, size, interpolation=chroma),
            cv2.resize(self.v, size, interpolation=chroma),
        )

    def cut(self, box: Box, size: int) -> Image:
        """The box, at fractions of a pixel, as BGR uint8 [size, size, 3].

        Shrinking averages over the area that an output pixel covers; past the border the last pixel
        repeats.
        """
        return self._bgr(
            _resample(self.y, box, size), _resample(self.u, box / 2, size), _resample(self.v, box / 2, size)
        )

    def _bgr(self, y: Array, u: Array, v: Array) -> Image:
        image: Image = cv2.transform(cv2.merge([y, u, v]), _yuv_to_bgr(self.colour))
        return image


def grid_to_box(box: Box, columns: int, rows: int) -> Array:
    """Affine map float64 [2, 3] from the pixel centres of a columns x rows grid to those under the box."""
    x1, y1, x2, y2 = (float(edge) for edge in box)
    across, down = (x2 - x1) / columns, (y2 - y1) / rows
    return np.array([[across, 0, x1 + across / 2 - 0.5], [0, down, y1 + down / 2 - 0.5]])


def _resample(plane: NDArray[np.uint8], box: Box, size: int) -> Array:
    """`box` of the plane as [size, size]: taps about a pixel apart, then their mean."""
    x1, y1, x2, y2 = (float(edge) for edge in box)
    taps = max(1, round(max(x2 - x1, y2 - y1) / size))
    fine: Array = cv2.warpAffine(
        plane,
        grid_to_box(box, taps * size, taps * size),
        (taps * size, taps * size),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return fine if taps == 1 else cv2.resize(fine, (size, size), interpolation=cv2.INTER_AREA)
