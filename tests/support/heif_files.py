"""HEIC photos, as a single image or in tiles like those of phones."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from wav2lip_npu.media.yuv_image import Image


def _box(kind: str, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return struct.pack(">I", len(content) + 8) + kind.encode() + content


def _full(kind: str, version: int, flags: int, *parts: bytes) -> bytes:
    return _box(kind, struct.pack(">I", version << 24 | flags), *parts)


def _hevc(image: Image, folder: Path) -> tuple[bytes, bytes]:
    """Return the decoder configuration and the frame of an image encoded with x265."""
    path = folder / "tile.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx265", rate=1, options={"x265-params": "log-level=none:crf=4:bframes=0"}
        )
        stream.height, stream.width = image.shape[:2]
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "bgr24").reformat(format="yuv420p")
        frame.pts, frame.time_base = 0, Fraction(1)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        configuration = bytes(stream.codec_context.extradata)
        data = bytes(next(container.demux(stream)))
    path.unlink()
    return configuration, data


def write_heic(
    path: Path, image: Image, *, tile: int = 64, angle: int = 0, mirror: int | None = None, wide: bool = False
) -> Path:
    """Write an image in tiles; `angle` is that of `irot`, `mirror` the mode of `imir`, `wide` the box versions."""
    height, width = image.shape[:2]
    rows, columns = -(-height // tile), -(-width // tile)
    padded = np.pad(image, ((0, rows * tile - height), (0, columns * tile - width), (0, 0)), "edge")
    coded = [
        _hevc(padded[tile * row :, tile * column :][:tile, :tile], path.parent)
        for row in range(rows)
        for column in range(columns)
    ]
    number = ">I" if wide else ">H"
    ids, grid = list(range(1, len(coded) + 1)), len(coded) + 1

    def of(item: int) -> bytes:
        return struct.pack(number, item)

    def infe(item: int, kind: bytes) -> bytes:
        return _full("infe", 3 if wide else 2, 0, of(item), struct.pack(">H4s", 0, kind), b"\0")

    iinf = _full(
        "iinf",
        1 if wide else 0,
        0,
        struct.pack(number, len(ids) + 1),
        *(infe(item, b"hvc1") for item in ids),
        infe(grid, b"grid"),
    )
    iref = _full("iref", int(wide), 0, _box("dimg", of(grid), struct.pack(">H", len(ids)), *map(of, ids)))
    properties = [
        _box("hvcC", coded[0][0]),
        _full("ispe", 0, 0, struct.pack(">II", tile, tile)),
        _full("ispe", 0, 0, struct.pack(">II", width, height)),
    ]
    grid_properties = [3]
    if mirror is not None:
        properties.append(_box("imir", bytes([mirror])))
        grid_properties.append(len(properties))
    if angle:
        properties.append(_box("irot", bytes([angle])))
        grid_properties.append(len(properties))
    rows_of = [(item, [1, 2]) for item in ids] + [(grid, grid_properties)]
    ipma = b"".join(
        of(item)
        + bytes([len(indices)])
        + b"".join(struct.pack(">H" if wide else ">B", index) for index in indices)
        for item, indices in rows_of
    )
    iprp = _box(
        "iprp",
        _box("ipco", *properties),
        _full("ipma", int(wide), int(wide), struct.pack(">I", len(rows_of)), ipma),
    )
    size = struct.pack(">II" if wide else ">HH", width, height)
    idat = bytes([0, int(wide), rows - 1, columns - 1]) + size
    ftyp = _box("ftyp", b"heic", struct.pack(">I", 0), b"mif1heic")

    def meta(start: int) -> bytes:
        entries, at = b"", start
        for item, (_, data) in zip(ids, coded, strict=True):
            entries += of(item) + struct.pack(">HHHII", 0, 0, 1, at, len(data))
            at += len(data)
        entries += of(grid) + struct.pack(">HHHII", 1, 0, 1, 0, len(idat))
        iloc = _full(
            "iloc", 2 if wide else 1, 0, bytes([0x44, 0]), struct.pack(number, len(ids) + 1), entries
        )
        hdlr = _full("hdlr", 0, 0, struct.pack(">I4s12xx", 0, b"pict"))
        pitm = _full("pitm", 0, 0, struct.pack(">H", grid))  # FFmpeg does not support version 1
        return _full("meta", 0, 0, hdlr, pitm, iloc, iinf, iref, iprp, _box("idat", idat))

    start = len(ftyp) + len(meta(0)) + 8
    path.write_bytes(ftyp + meta(start) + _box("mdat", *(data for _, data in coded)))
    return path
