"""Deinterlacing of video in many codecs."""

from __future__ import annotations

import io
import itertools
import logging
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image as Pillow

from support.media_files import write_frames
from wav2lip_npu.media.container import probe
from wav2lip_npu.media.video_reader import read_frames
from wav2lip_npu.media.yuv_image import Image

SPEED = 4
"""Pixels per field."""
INTERLACED = av.codec.context.Flags.interlaced_dct | av.codec.context.Flags.interlaced_me


def bar(time: int, width: int, height: int) -> Image:
    """Return an image of a bar that moves to the right with time."""
    image = np.full((height, width, 3), 40, np.uint8)
    image[:, 10 + SPEED * time : 30 + SPEED * time] = 220
    return image


def woven(count: int, bottom_first: bool = False, width: int = 192, height: int = 96) -> Iterator[Image]:
    """Yield frames whose even and odd lines are from successive times."""
    for number in range(count):
        image = bar(2 * number + bottom_first, width, height)
        image[1::2] = bar(2 * number + (not bottom_first), width, height)[1::2]
        yield image


def write_interlaced(
    path: Path,
    codec: str,
    *,
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    order: str = "tff",
    flags: int = 0,
    field_order: int = 0,
    size: tuple[int, int] = (192, 96),
) -> Path:
    """Write 12 woven frames, flagged by the encoder (`flags`, `options`) or the container (`field_order`)."""
    graph = av.filter.Graph()
    nodes = [
        graph.add_buffer(width=size[0], height=size[1], format=pix_fmt, time_base=Fraction(1, 25)),
        graph.add("setfield", order),
        graph.add("buffersink"),
    ]
    graph.link_nodes(*nodes).configure()
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt
        stream.codec_context.flags |= flags
        if field_order:
            if not hasattr(stream.codec_context, "field_order"):
                pytest.skip("this version of PyAV does not state the field order of a container")
            stream.codec_context.field_order = field_order
        for number, image in enumerate(woven(12, order == "bff", *size)):
            frame = av.VideoFrame.from_ndarray(image, "bgr24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            graph.vpush(frame)
            container.mux(stream.encode(graph.vpull()))
        container.mux(stream.encode(None))
    return path


def combing(luma: np.ndarray) -> float:
    """Return the mean difference of lines from their neighbours."""
    lines = luma.astype(int)
    return float(np.abs(2 * lines[1:-1] - lines[:-2] - lines[2:]).mean())


SOURCES: dict[str, dict[str, Any]] = {
    "tff.mp4": {"codec": "libx264", "options": {"x264-params": "tff=1"}},
    "bff.mkv": {"codec": "libx264", "options": {"x264-params": "bff=1"}, "order": "bff"},
    "x264.ts": {"codec": "libx264", "flags": INTERLACED},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "interlace=tff:log-level=none"}},
    "mpeg2.mpg": {"codec": "mpeg2video", "flags": INTERLACED},
    "mpeg2.ts": {"codec": "mpeg2video", "flags": INTERLACED, "order": "bff"},
    "mpeg2.mkv": {"codec": "mpeg2video", "flags": INTERLACED},
    "mpeg4.avi": {"codec": "mpeg4", "flags": INTERLACED},
    "prores.mov": {"codec": "prores_ks", "pix_fmt": "yuv422p10le", "flags": INTERLACED},
    "prores4444.mov": {"codec": "prores_ks", "pix_fmt": "yuv444p10le", "flags": INTERLACED, "order": "bff"},
    "dv.avi": {"codec": "dvvideo", "size": (720, 576), "order": "bff"},
    "mjpeg.mov": {"codec": "mjpeg", "pix_fmt": "yuvj420p", "field_order": 2},
    "mjpeg.mkv": {"codec": "mjpeg", "pix_fmt": "yuvj422p", "field_order": 3, "order": "bff"},
    "ffv1.mkv": {"codec": "ffv1", "pix_fmt": "yuv422p10le", "field_order": 5},
    "v210.mov": {"codec": "v210", "pix_fmt": "yuv422p10le", "field_order": 3, "order": "bff"},
}


@pytest.mark.parametrize("name", SOURCES)
def test_interlaced_video_is_deinterlaced(tmp_path, name, caplog):
    """B3: fields are merged; number, times and labels of the frames stay the same."""
    path = write_interlaced(tmp_path / name, **SOURCES[name])
    with av.open(str(path)) as container:
        decoded = list(container.decode(video=0))
    with caplog.at_level(logging.INFO):
        info = probe(path)
    assert info.interlaced and name in caplog.text and "interlaced" in caplog.text
    frames = list(read_frames(info))
    assert len(frames) == len(decoded) == 12 and info.fps == 25
    before, after = decoded[6], frames[6]
    assert combing(before.to_ndarray(format="gray")) > 2
    assert combing(after.yuv.y) < 0.15 * combing(before.to_ndarray(format="gray"))
    assert after.yuv.colour.labels[1:] == (
        int(before.colorspace),
        int(before.color_primaries),
        int(before.color_trc),
    )


@pytest.mark.parametrize("name", ["tff.mp4", "bff.mkv", "mpeg2.ts", "prores.mov"])
def test_first_field_is_kept(tmp_path, name):
    """B3: the frame shows the time of its first field."""
    path = write_interlaced(tmp_path / name, **SOURCES[name])
    for frame in itertools.islice(read_frames(path), 1, 11):
        row = frame.yuv.y[48].astype(int)
        bright = np.flatnonzero(row > 130)
        assert abs(bright[0] - (10 + 2 * SPEED * frame.index)) <= 1


@pytest.mark.parametrize("loop", ["loop", "pingpong"])
def test_repeated_frames_are_identical(tmp_path, loop, monkeypatch):
    """B3: deinterlacing after a seek gives the frames of the first pass."""
    monkeypatch.setattr("wav2lip_npu.media.video_reader._REVERSE_BYTES", 1)
    images = woven(60, width=560)
    path = write_frames(tmp_path / "a.mp4", images, options={"x264-params": "tff=1:keyint=12:bframes=3"})
    first: dict[int, Any] = {}
    for frame in itertools.islice(read_frames(path, loop=loop), 170):
        same = first.setdefault(frame.source, frame)
        assert np.array_equal(frame.yuv.y, same.yuv.y) and np.array_equal(frame.yuv.u, same.yuv.u)
    assert len(first) == 60


@pytest.mark.parametrize("polarity", [None, 0, 1])
@pytest.mark.parametrize("suffix", ["avi", "mkv"])
def test_fields_stored_as_two_jpegs(tmp_path, polarity, suffix):
    """B3: Motion JPEG in AVI stores the two fields of a frame as two images of half the height."""

    def jpeg(field: Image) -> bytes:
        buffer = io.BytesIO()
        Pillow.fromarray(field).save(buffer, "JPEG", quality=95)
        data = buffer.getvalue()
        avi1 = b"" if polarity is None else b"\xff\xe0\x00\x10AVI1" + bytes([polarity]) + bytes(9)
        return data[:2] + avi1 + data[20:]

    first = polarity or 0  # 1: the bottom field, to FFmpeg
    path = tmp_path / f"a.{suffix}"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 192, 96, "yuvj420p"
        for number, image in enumerate(woven(8, bottom_first=bool(polarity))):
            packet = av.Packet(jpeg(image[first::2]) + jpeg(image[1 - first :: 2]))
            packet.stream, packet.pts, packet.dts = stream, number, number
            packet.time_base = Fraction(1, 25)
            packet.is_keyframe = True
            container.mux(packet)
    info = probe(path)
    assert info.interlaced and (info.width, info.height) == (192, 96)
    frames = list(read_frames(info))
    assert len(frames) == 8
    assert max(combing(frame.yuv.y) for frame in frames) < 2


@pytest.mark.parametrize(
    "options", [{}, {"x264-params": "fake-interlaced=1"}, {"x264-params": "pic-struct=1"}], ids=str
)
def test_progressive_video_is_unchanged(tmp_path, options):
    """B3: only frames that are flagged as interlaced are changed."""
    path = write_frames(tmp_path / "a.mp4", woven(4), options=options)
    assert not probe(path).interlaced
    with av.open(str(path)) as container:
        decoded = [frame.to_ndarray()[:96] for frame in container.decode(video=0)]
    assert all(
        np.array_equal(frame.yuv.y, luma) for frame, luma in zip(read_frames(path), decoded, strict=True)
    )
