"""OmniRT's binary messages: `AUDI` before audio, and `VIDX` before a sequence of JPEG images."""

from __future__ import annotations

import struct
from collections.abc import Sequence

AUDIO, VIDEO = b"AUDI", b"VIDX"
_NUMBER = struct.Struct("<I")


def video_message(images: Sequence[bytes]) -> bytes:
    """Return the message of some JPEG images: `VIDX`, their number, and each after its length."""
    parts = [VIDEO, _NUMBER.pack(len(images))]
    for image in images:
        parts += _NUMBER.pack(len(image)), image
    return b"".join(parts)


def images_of(message: bytes) -> list[bytes]:
    """Return the images of a message. Raises `ValueError` if it is not one."""
    if message[:4] != VIDEO:
        raise ValueError("no VIDX message")
    (count,), at, images = _NUMBER.unpack_from(message, 4), 8, []
    for _ in range(count):
        (size,) = _NUMBER.unpack_from(message, at)
        images.append(message[at + 4 : at + 4 + size])
        at += 4 + size
    if at != len(message):
        raise ValueError(f"a VIDX message of {len(message)} bytes whose images end at {at}")
    return images
