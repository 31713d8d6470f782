"""Read tiled images of HEIF files. FFmpeg decodes each tile of a HEIC photo as a separate stream.

Reads the item boxes of ISO/IEC 14496-12 (8.11) and the `grid` item of ISO/IEC 23008-12 (6.6.2.3.2).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from PIL import Image as Pillow

from wav2lip_npu.errors import MediaError
from wav2lip_npu.media.orientation import UPRIGHT, Orientation
from wav2lip_npu.media.streams import DECODE_ERRORS
from wav2lip_npu.media.yuv_image import YuvImage

_MAX_META_BYTES = 16 << 20
_MAX_BOXES = 100
"""Maximum number of top-level boxes to search for the item boxes."""


@dataclass(frozen=True)
class Grid:
    """An image of equal tiles, left to right and top to bottom."""

    width: int
    height: int
    columns: int
    tiles: tuple[int, ...]
    """Item numbers, which are the IDs of FFmpeg's streams."""
    orientation: Orientation


def read_grid(path: str | os.PathLike[str]) -> Grid | None:
    """Return the grid of the primary image of a HEIF file; None if it is not tiled.

    Raises:
        MediaError: The boxes of the file are damaged, or the image has too many pixels.

    """
    try:
        with open(path, "rb") as file:
            meta = _find_meta(file)
            grid = None if meta is None else _parse(dict(_boxes(meta[4:])), file)
    except (struct.error, LookupError, ValueError, OverflowError, OSError) as error:
        raise MediaError(f"the index of {path} is damaged ({error}). Copy the file again.") from None
    if grid is not None and grid.width * grid.height > 2 * (Pillow.MAX_IMAGE_PIXELS or 1 << 40):
        raise MediaError(f"{path} is too large: {grid.width}x{grid.height}. Scale it down.")
    return grid


def decode_grid(container: Any, grid: Grid, path: str | os.PathLike[str]) -> YuvImage:
    """Return the image of a grid, not yet upright. Raises `MediaError` if a tile is missing or damaged."""
    streams = {stream.id: stream for stream in container.streams.video}
    if missing := [tile for tile in grid.tiles if tile not in streams or not streams[tile].codec_context]:
        raise MediaError(f"tile {missing[0]} of {path} is missing. Copy the file again.")
    places = {streams[tile].index: number for number, tile in enumerate(grid.tiles)}
    planes: tuple[Any, Any, Any] | None = None
    colour: Any = None
    try:
        for packet in container.demux([streams[tile] for tile in dict.fromkeys(grid.tiles)]):
            for frame in packet.decode():
                row, column = divmod(places.pop(packet.stream.index), grid.columns)
                tile = YuvImage.from_frame(frame, frame.width, frame.height)
                if planes is None:
                    colour = tile.colour
                    half = (grid.height + 1) // 2, (grid.width + 1) // 2
                    shapes = ((2 * half[0], 2 * half[1]), half, half)
                    planes = tuple(np.zeros(shape, np.uint8) for shape in shapes)  # type: ignore[assignment]
                    assert planes is not None
                for plane, part in zip(planes, (tile.y, tile.u, tile.v), strict=True):
                    top, left = row * part.shape[0], column * part.shape[1]
                    place = plane[top : top + part.shape[0], left : left + part.shape[1]]
                    place[:] = part[: place.shape[0], : place.shape[1]]
    except (*DECODE_ERRORS, KeyError) as error:
        raise MediaError(f"a tile of {path} cannot be decoded ({error}). Copy the file again.") from None
    if planes is None or places:
        raise MediaError(f"{len(places)} tiles of {path} cannot be decoded. Copy the file again.")
    return YuvImage(*planes, colour)


def _find_meta(file: BinaryIO) -> bytes | None:
    """Return the content of the top-level `meta` box."""
    position = 0
    for _ in range(_MAX_BOXES):
        file.seek(position)
        head = file.read(16)
        if len(head) < 8:
            return None
        size, kind = struct.unpack_from(">I4s", head)
        start = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", head, 8)
            start = 16
        if kind == b"meta":
            file.seek(position + start)
            return file.read(min(size - start, _MAX_META_BYTES))
        if size < start:
            return None
        position += size
    return None


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield type and content of successive boxes."""
    position = 0
    while position + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, position)
        size = size if size >= 8 else len(data) - position
        yield kind, data[position + 8 : position + size]
        position += size


def _parse(meta: dict[bytes, bytes], file: BinaryIO) -> Grid | None:
    pitm = meta.get(b"pitm")
    if pitm is None or b"iinf" not in meta:
        return None
    (primary,) = struct.unpack_from(">I" if pitm[0] else ">H", pitm, 4)
    if _item_types(meta[b"iinf"]).get(primary) != b"grid":
        return None
    _, flags, rows, columns, *_ = data = _item_data(meta, primary, file)
    width, height = struct.unpack_from(">II" if flags & 1 else ">HH", data, 4)
    tiles = _references(meta[b"iref"], primary)
    if len(tiles) != (rows + 1) * (columns + 1) or not width or not height:
        raise IndexError("number of tiles")
    return Grid(width, height, columns + 1, tiles, _orientation(meta.get(b"iprp", b""), primary))


def _item_types(iinf: bytes) -> dict[int, bytes]:
    types = {}
    for _, infe in _boxes(iinf[8 if iinf[0] else 6 :]):
        form = ">IH4s" if infe[0] > 2 else ">HH4s"
        number, _, kind = struct.unpack_from(form, infe, 4)
        types[number] = kind
    return types


def _references(iref: bytes, item: int) -> tuple[int, ...]:
    """Return the items that an item is derived from."""
    number = "I" if iref[0] else "H"
    for kind, content in _boxes(iref[4:]):
        source, count = struct.unpack_from(f">{number}H", content)
        if kind == b"dimg" and source == item:
            return struct.unpack_from(f">{count}{number}", content, struct.calcsize(f">{number}H"))
    raise KeyError("dimg")


def _item_data(meta: dict[bytes, bytes], item: int, file: BinaryIO) -> bytes:
    """Return the first bytes of an item that has a single extent."""
    iloc = meta[b"iloc"]
    version = iloc[0]
    sizes = (iloc[4] >> 4, iloc[4] & 15, iloc[5] >> 4, iloc[5] & 15 if version else 0)
    position = 6

    def read(size: int) -> int:
        nonlocal position
        value = int.from_bytes(iloc[position : position + size], "big")
        if position + size > len(iloc):
            raise IndexError("iloc")
        position += size
        return value

    for _ in range(read(4 if version > 1 else 2)):
        number = read(4 if version > 1 else 2)
        method = read(2) & 15 if version else 0
        read(2)
        base = read(sizes[2])
        count = read(2)
        if count > 1 and not sizes[0] + sizes[1] + sizes[3]:
            raise IndexError("iloc")  # it would claim any number of extents in no bytes
        extents = [(read(sizes[3]), read(sizes[0]), read(sizes[1])) for _ in range(count)]
        if number == item:
            _, offset, length = extents[0]
            length = min(length, 64) or 64
            if method == 1:
                return meta[b"idat"][base + offset :][:length]
            file.seek(base + offset)
            return file.read(length)
    raise KeyError("iloc")


def _orientation(iprp: bytes, item: int) -> Orientation:
    """Return the orientation from the properties `irot` and `imir` of an item, in file order."""
    properties = dict(_boxes(iprp))
    ipma = properties.get(b"ipma")
    if ipma is None:
        return UPRIGHT
    kinds = list(_boxes(properties[b"ipco"]))
    mirrored, quarters = False, 0
    for index in _associations(ipma).get(item, ()):
        kind, content = kinds[index - 1] if index else (b"", b"")
        if kind == b"irot":
            quarters += content[0] & 3
        elif kind == b"imir":  # 1 swaps left and right, 0 top and bottom
            mirrored, quarters = not mirrored, -quarters + (0 if content[0] & 1 else 2)
    return Orientation(mirrored, quarters % 4)


def _associations(ipma: bytes) -> dict[int, list[int]]:
    """Return the numbers of the properties of each item."""
    (count,) = struct.unpack_from(">I", ipma, 4)
    number, size = (">I" if ipma[0] else ">H"), (2 if ipma[3] & 1 else 1)
    position, associations = 8, {}
    for _ in range(count):
        (item,) = struct.unpack_from(number, ipma, position)
        position += struct.calcsize(number)
        length = ipma[position]
        position += 1
        values = [
            int.from_bytes(ipma[at : at + size], "big") & ((1 << (8 * size - 1)) - 1)
            for at in range(position, position + length * size, size)
        ]
        associations[item] = values
        position += length * size
    return associations
