"""Read the files of an untrusted clip folder after checking their types and sizes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wav2lip_npu.storage.regular_files import read_limited

_MAX_JSON = 64 << 20
"""Size limit of clip.json in bytes. Ten hours of video take 35 MB."""
MAX_JPEG = 64 << 20
"""Size limit of a face in bytes."""
_MAX_PIXELS = 1 << 26
"""Limit of pixels in a face, 8192 x 8192."""
_JPEG_BEGIN, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset((0x01, *range(0xD0, 0xD9)))


def read_json(path: Path) -> Any:
    """Return the content of a JSON file. Raises `OSError` and `ValueError`."""
    try:
        return json.loads(read_limited(path, _MAX_JSON))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_face(path: Path) -> NDArray[np.uint8]:
    """Return the image in a file, BGR uint8 [H, W, 3]. Raises `OSError` and `ValueError`."""
    content = read_limited(path, MAX_JPEG)
    if content.startswith(_JPEG_BEGIN) and _JPEG_END not in content[-64:]:
        raise ValueError("it is truncated")  # OpenCV would fill the missing part with grey
    size = _jpeg_pixels(content) if content.startswith(_JPEG_BEGIN) else _other_pixels(content)
    if not 0 < size <= _MAX_PIXELS:
        raise ValueError(f"it has {size:,} pixels")
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ValueError(str(error.err)) from None
    if image is None:
        raise ValueError("it is damaged")
    return np.asarray(image, np.uint8)


def _jpeg_pixels(content: bytes) -> int:
    """Return the number of pixels according to the header of a JPEG; 0 without a header."""
    position = 2
    while position + 9 <= len(content) and content[position] == 0xFF:
        code = content[position + 1]
        if code in _FRAME_HEADERS:
            height, width = (int.from_bytes(content[position + n : position + n + 2], "big") for n in (5, 7))
            return height * width
        if code == 0xFF:
            position += 1
        elif code in _WITHOUT_LENGTH:
            position += 2
        else:
            position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
    return 0


def _other_pixels(content: bytes) -> int:
    """Return the number of pixels of an image in another format, such as a PNG named .jpg."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size
            return int(width * height)
    except Exception as error:  # Pillow raises many types for damaged files
        raise ValueError(f"it is not an image ({type(error).__name__})") from None
