"""A video image as stored by the codec: three planes, YUV 4:2:0, 8 bits.

Frames stay in this form from the decoder to the encoder; only the face is converted to BGR. Pixels outside
the mouth reach the encoder bit for bit as decoded, with colour range and matrix, and a frame takes 1.5 bytes
per pixel instead of 3, without two conversions.

`Image` is uint8 [H, W, 3] in BGR order, the order that the networks were trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

from wav2lip_npu.media.colour import SCREEN as SCREEN
from wav2lip_npu.media.colour import Array as Array
from wav2lip_npu.media.colour import Colour as Colour
from wav2lip_npu.media.colour import to_bgr
from wav2lip_npu.media.colour import to_yuv as to_yuv

Image = NDArray[np.uint8]
"""uint8 [H, W, 3], BGR"""
Box = NDArray[np.float32]
"""float32 [4], x1 y1 x2 y2 in pixels, half-open"""
_UNSPECIFIED = 2
"""FFmpeg's number of unspecified primaries and transfer functions."""
_SCALING = 2 | 0x40000
"""FFmpeg's flags for bilinear scaling with accurate rounding, which keeps grey 10-bit 4:2:2 at chroma 128."""
_PLANAR = {"yuv420p", "yuvj420p", "yuva420p"}


@dataclass(frozen=True)
class YuvImage:
    """One video image: `y` uint8 [H, W], `u` and `v` uint8 [H/2, W/2]; H and W are even."""

    y: NDArray[np.uint8]
    u: NDArray[np.uint8]
    v: NDArray[np.uint8]
    colour: Colour

    @property
    def width(self) -> int:
        """Columns of luma."""
        return int(self.y.shape[1])

    @property
    def height(self) -> int:
        """Rows of luma."""
        return int(self.y.shape[0])

    @property
    def nbytes(self) -> int:
        """Bytes of all three planes."""
        return self.y.nbytes + self.u.nbytes + self.v.nbytes

    @classmethod
    def from_image(cls, image: Image, colour: Colour) -> YuvImage:
        """Convert a BGR image. An odd last row or column is repeated, so that no pixel is lost."""
        height, width = image.shape[:2]
        even: Array = cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        y, *chroma = cv2.split(to_yuv(even, colour))
        half = (even.shape[1] // 2, even.shape[0] // 2)
        u, v = (cv2.resize(plane, half, interpolation=cv2.INTER_AREA) for plane in chroma)
        return cls.padded(y, u, v, colour)

    @classmethod
    def padded(cls, y: Any, u: Any, v: Any, colour: Colour) -> YuvImage:
        """Return an image of three planes; an odd last row or column of luma is repeated."""
        height, width = y.shape
        if height % 2 or width % 2:
            y = cv2.copyMakeBorder(y, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        return cls(y, u, v, colour)

    @classmethod
    def from_frame(cls, frame: VideoFrame, width: int, height: int) -> YuvImage:
        """Convert and resize a decoded frame of any pixel format; transparent pixels become white."""
        same_size = (frame.width, frame.height) == (width, height)
        if frame.format.is_rgb or frame.format.has_palette or frame.format.name.startswith("xyz"):
            if not same_size:
                frame = frame.reformat(width, height, format="bgra")
            bgra: Any = frame.to_ndarray(format="bgra")
            return cls.from_image(on_white(bgra), SCREEN)
        colour = Colour.from_frame(frame)
        transparent, grey = has_alpha(frame), is_grey(frame)
        if not same_size or frame.format.name not in _PLANAR:
            frame = _as_planar(frame, width, height, colour, with_alpha=transparent)
        y, u, v = (_plane_of(frame, number) for number in range(3))
        if grey:  # FFmpeg's scaler rounds some values to 127
            u.fill(128)
            v.fill(128)
        if transparent:
            y, u, v = _planes_on_white(y, u, v, _plane_of(frame, 3), colour)
        return cls.padded(y, u, v, colour)

    def copy(self) -> YuvImage:
        """Return a copy that shares no memory."""
        return YuvImage(self.y.copy(), self.u.copy(), self.v.copy(), self.colour)

    def to_image(self) -> Image:
        """Convert the whole image to BGR uint8 [H, W, 3]."""
        return self.scaled(self.width, self.height)

    def scaled(self, width: int, height: int) -> Image:
        """Convert the whole image to BGR uint8 [height, width, 3], averaged by area if it shrinks."""
        shrinks = width < self.width
        luma = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        chroma = cv2.INTER_AREA if width < self.width // 2 else cv2.INTER_LINEAR
        size = (width, height)
        return self._bgr(
            self.y if size == (self.width, self.height) else cv2.resize(self.y, size, interpolation=luma),
            cv2.resize(self.u, size, interpolation=chroma),
            cv2.resize(self.v, size, interpolation=chroma),
        )

    def crop(self, box: Box, size: int) -> Image:
        """Return the box, with subpixel precision, as BGR uint8 [size, size, 3].

        Each output pixel is the mean of the area it covers. Outside the image the border pixel is repeated.
        """
        return self._bgr(
            _resample(self.y, box, size), _resample(self.u, box / 2, size), _resample(self.v, box / 2, size)
        )

    def aligned(self, to_image: NDArray[np.float64], size: int) -> Image:
        """Return a rotated square as BGR uint8 [size, size, 3].

        `to_image` is the affine map float64 [2, 3] from the square, whose pixels have edges 0, 1, 2, ..., to
        the image. Outside the image the border pixel is repeated.
        """
        return self._bgr(
            _warp(self.y, to_image, size),
            _warp(self.u, to_image / 2, size),
            _warp(self.v, to_image / 2, size),
        )

    def _bgr(self, y: Array, u: Array, v: Array) -> Image:
        image: Image = np.asarray(to_bgr(cv2.merge([y, u, v]), self.colour), np.uint8)
        return image


def on_white(bgra: NDArray[np.uint8]) -> Image:
    """Blend BGRA [H, W, 4] with white and return BGR [H, W, 3]."""
    alpha = bgra[:, :, 3:]
    if alpha.min(initial=255) == 255:
        return np.ascontiguousarray(bgra[:, :, :3])
    return _over(bgra[:, :, :3], alpha, 255)


def has_alpha(frame: VideoFrame) -> bool:
    """Return whether a frame has an alpha channel. A palette with transparent entries does not count."""
    return any(component.is_alpha for component in frame.format.components)


def is_grey(frame: VideoFrame) -> bool:
    """Return whether a pixel format has no colours."""
    colours = sum(not component.is_alpha for component in frame.format.components)
    return colours == 1 and not frame.format.has_palette


def _as_planar(frame: VideoFrame, width: int, height: int, colour: Colour, *, with_alpha: bool) -> VideoFrame:
    """Return a YUV or grey frame as 8-bit YUV 4:2:0, with the same range, matrix and transfer function."""
    # FFmpeg's scaler refuses unsupported values even if it does not have to convert them.
    kept = frame.color_primaries, frame.color_trc
    frame.color_primaries = frame.color_trc = _UNSPECIFIED
    as_is = ColorRange.JPEG if colour.full_range else ColorRange.MPEG
    try:
        return frame.reformat(
            width,
            height,
            format="yuva420p" if with_alpha else "yuv420p",
            interpolation=_SCALING,
            src_colorspace=Colorspace.ITU709,
            dst_colorspace=Colorspace.ITU709,
            src_color_range=as_is,
            dst_color_range=as_is,
        )
    finally:
        frame.color_primaries, frame.color_trc = kept


def _planes_on_white(
    y: NDArray[np.uint8], u: NDArray[np.uint8], v: NDArray[np.uint8], alpha: NDArray[np.uint8], colour: Colour
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Blend YUV 4:2:0 planes with white."""
    if alpha.min(initial=255) == 255:
        return y, u, v
    half: Any = cv2.resize(alpha, (u.shape[1], u.shape[0]), interpolation=cv2.INTER_AREA)
    return _over(y, alpha, colour.white), _over(u, half, 128), _over(v, half, 128)


def _over(values: NDArray[np.uint8], alpha: NDArray[np.uint8], background: int) -> NDArray[np.uint8]:
    """Return values over a uniform background."""
    opacity = alpha.astype(np.uint16)
    return ((values * opacity + background * (255 - opacity) + 127) // 255).astype(np.uint8)


def grid_to_box(box: Array, columns: int, rows: int) -> Array:
    """Return the affine map float64 [2, 3] from the pixels of a columns x rows grid to pixels of the box."""
    x1, y1, x2, y2 = (float(edge) for edge in box)
    across, down = (x2 - x1) / columns, (y2 - y1) / rows
    return np.array([[across, 0, x1 + across / 2 - 0.5], [0, down, y1 + down / 2 - 0.5]])


def centred(edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return an affine map [2, 3] between centres of pixels, as OpenCV takes it, for one between edges."""
    return np.column_stack([edges[:, :2], edges @ (0.5, 0.5, 1) - 0.5])


def _warp(plane: NDArray[np.uint8], to_plane: NDArray[np.float64], size: int) -> Array:
    """Return a rotated square of a plane, [size, size]: the mean of samples about one pixel apart."""
    taps = max(1, round(abs(np.linalg.det(to_plane[:, :2])) ** 0.5))
    fine: Array = cv2.warpAffine(
        plane,
        centred(to_plane / (taps, taps, 1)),
        (taps * size, taps * size),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return fine if taps == 1 else cv2.resize(fine, (size, size), interpolation=cv2.INTER_AREA)


def _resample(plane: NDArray[np.uint8], box: Array, size: int) -> Array:
    """Return `box` of a plane as [size, size]: the mean of samples about one pixel apart.

    A large box is first halved, to 1.5 to 3 pixels per pixel of the result.
    """
    while float((box[2:] - box[:2]).max()) > 3 * size and min(plane.shape) > 8:
        plane, box = _halved(plane, box)
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


def _halved(plane: Array, box: Array) -> tuple[Array, Array]:
    """Return the part of a plane around a box at half its size, and the box in it."""
    limit = np.array(plane.shape[::-1])
    corner = np.clip(np.floor(box[:2]).astype(int) - 2, 0, limit - 4)
    end = np.clip(np.ceil(box[2:]).astype(int) + 3, corner + 4, limit)
    columns, rows = (int(side) for side in (end - corner) // 2)
    left, top = (int(edge) for edge in corner)
    part = plane[top : top + 2 * rows, left : left + 2 * columns]
    half: Array = cv2.resize(part, (columns, rows), interpolation=cv2.INTER_AREA)
    return half, (box - np.tile(corner, 2)) / 2


def _plane_of(frame: VideoFrame, number: int) -> NDArray[np.uint8]:
    """Return a copy of one plane without the padding of its lines.

    A view would keep the decoder's whole frame pool alive.
    """
    plane: Any = frame.planes[number]
    lines: NDArray[np.uint8] = np.frombuffer(plane, np.uint8).reshape(plane.height, -1)
    down = -1 if plane.line_size < 0 else 1
    return np.array(lines[::down, : plane.width], np.uint8, order="C")
