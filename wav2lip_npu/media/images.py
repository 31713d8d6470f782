"""Image files, by Pillow: known by their content, upright, on white where they are transparent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from av.video.frame import VideoFrame
from PIL import Image as Pillow
from PIL import ImageOps, ImageSequence

from wav2lip_npu.errors import MediaError
from wav2lip_npu.media.yuv_image import Image, on_white

_STILLS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "PPM", "JPEG2000", "ICO")
_MOVING = {"GIF", "PNG", "WEBP"}


def is_image(path: str | os.PathLike[str]) -> bool:
    """Whether the content (not the name) is a still image; moving GIF, PNG and WebP are videos."""
    kind, is_moving = _picture_file(path)
    return kind is not None and not is_moving


def is_moving_webp(path: str | os.PathLike[str]) -> bool:
    """Whether it is an animation that `decode_webp` must read."""
    return _picture_file(path) == ("WEBP", True)


def _picture_file(path: str | os.PathLike[str]) -> tuple[str | None, bool]:
    """Format of an image file, `None` if it is none, and whether it is an animation."""
    if not os.path.isfile(path):  # opening a pipe would wait
        return None, False
    try:
        with Pillow.open(path, formats=_STILLS) as image:
            return image.format, image.format in _MOVING and getattr(image, "is_animated", False)
    except (OSError, ValueError, SyntaxError, EOFError):
        return None, False
    except Pillow.DecompressionBombError:
        return "too large", False


def read_image(path: str | os.PathLike[str]) -> Image:
    """BGR uint8 [H, W, 3], upright by its EXIF tag, on white where it is transparent."""
    try:
        with Pillow.open(path, formats=_STILLS) as opened:
            upright = ImageOps.exif_transpose(opened)
            if upright.mode.startswith("I;16"):
                upright = Pillow.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            rgba = np.asarray(upright.convert("RGBA"))
    except Exception as error:  # a damaged file makes Pillow raise any kind
        raise MediaError(f"cannot read image {path}: {error}.") from None
    return on_white(rgba[:, :, [2, 1, 0, 3]])


def decode_webp(path: str | os.PathLike[str]) -> Iterator[VideoFrame]:
    """The pictures of a moving WebP, which FFmpeg cannot decode."""
    stamp = 0
    try:
        with Pillow.open(path, formats=["WEBP"]) as image:
            for picture in ImageSequence.Iterator(image):
                frame = VideoFrame.from_ndarray(np.asarray(picture.convert("RGBA")), format="rgba")
                frame.pts, frame.time_base = stamp, Fraction(1, 1000)
                frame.duration = int(picture.info.get("duration", 0))
                stamp += frame.duration
                yield frame
    except Exception as error:  # as above
        raise MediaError(f"cannot read image {path}: {error}.") from None
