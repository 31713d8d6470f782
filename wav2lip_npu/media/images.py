"""Read image files with Pillow: format detected by content, upright, transparent pixels on white.

FFmpeg decodes the formats that Pillow does not support, such as HEIC.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from typing import BinaryIO

import numpy as np
from av.video.frame import VideoFrame
from PIL import Image as Pillow
from PIL import ImageOps, ImageSequence

from wav2lip_npu import signals
from wav2lip_npu.errors import MediaError
from wav2lip_npu.media.yuv_image import Image, on_white

ImageFile = Pillow.Image
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "PPM", "JPEG2000", "ICO", "AVIF")
_PLUGINS = ("Jpeg", "Png", "WebP", "Bmp", "Tiff", "Gif", "Ppm", "Jpeg2K", "Ico", "Avif")
"""Those of 45 modules of Pillow that read these formats."""
_ANIMATIONS_OF_FFMPEG = ("GIF", "PNG", "AVIF")


@cache
def _formats() -> tuple[str, ...]:
    """Return the formats that this version of Pillow supports; AVIF was added in 11.3."""
    for name in _PLUGINS:
        with contextlib.suppress(ImportError):
            importlib.import_module(f"PIL.{name}ImagePlugin")
    return tuple(form for form in _FORMATS if form in Pillow.OPEN)


def open_image(file: BinaryIO, path: str | os.PathLike[str]) -> ImageFile | None:
    """Return a still image or animated WebP, not yet decoded; None for any other file.

    Raises:
        MediaError: The image has too many pixels.

    """
    try:
        image = Pillow.open(file, formats=_formats())
        by_ffmpeg = image.format in _ANIMATIONS_OF_FFMPEG and getattr(image, "is_animated", False)
        return None if by_ffmpeg else image
    except Pillow.DecompressionBombError as error:
        raise _unreadable(path, error) from None
    except (OSError, ValueError, SyntaxError, EOFError):
        return None


def is_animated(image: ImageFile) -> bool:
    """Return whether an opened image is an animated WebP."""
    return image.format == "WEBP" and bool(getattr(image, "is_animated", False))


def read_image(path: str | os.PathLike[str]) -> Image:
    """Return the image file at a path as BGR uint8 [H, W, 3]. Raises `MediaError`."""
    try:
        with Pillow.open(path, formats=_formats()) as image:
            return decode_image(image, path)
    except MediaError:
        raise
    except Exception as error:  # of any type: Pillow raises many for a damaged file
        raise _unreadable(path, error) from None


def decode_image(image: ImageFile, path: str | os.PathLike[str]) -> Image:
    """Return an opened image as BGR uint8 [H, W, 3], upright by its EXIF tag, on white where transparent.

    Raises:
        MediaError: The file is damaged.

    """
    try:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16"):
            upright = Pillow.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        elif upright.mode == "F":  # values in 0 to 1 or 0 to 255
            values = np.nan_to_num(np.asarray(upright))
            scale = 255 if values.max(initial=0) <= 1 else 1
            upright = Pillow.fromarray(np.clip(values * scale, 0, 255).round().astype(np.uint8))
        rgba = np.asarray(upright.convert("RGBA"))
    except Exception as error:  # as above
        raise _unreadable(path, error) from None
    return on_white(rgba[:, :, [2, 1, 0, 3]])


def read_webp(path: str | os.PathLike[str]) -> Iterator[VideoFrame]:
    """Yield the frames of an animated WebP, which FFmpeg cannot decode. Raises `MediaError`."""
    try:
        with Pillow.open(path, formats=["WEBP"]) as image:
            yield from decode_webp(image, path)
    except MediaError:
        raise
    except Exception as error:  # as above
        raise _unreadable(path, error) from None


def decode_webp(image: ImageFile, path: str | os.PathLike[str]) -> Iterator[VideoFrame]:
    """Yield the frames of an opened WebP with time stamps in milliseconds. Raises `MediaError`."""
    time = 0
    try:
        for rgba in ImageSequence.Iterator(image):
            signals.check()
            frame = VideoFrame.from_ndarray(np.asarray(rgba.convert("RGBA")), format="rgba")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            frame.duration = int(rgba.info.get("duration", 0))
            time += frame.duration
            yield frame
    except Exception as error:  # as above
        raise _unreadable(path, error) from None


def _unreadable(path: str | os.PathLike[str], error: Exception) -> MediaError:
    if isinstance(error, Pillow.DecompressionBombError):
        limit = 2 * (Pillow.MAX_IMAGE_PIXELS or 0)
        return MediaError(f"the image {path} has more than {limit:,} pixels, the limit. Scale it down.")
    reason = str(error).rstrip(".")
    return MediaError(f"cannot read image {path}: {reason}. Copy the file again, or export it as PNG.")
