"""Deinterlace video: a frame of two fields becomes one progressive frame of the same size and time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import av
from av.video.frame import VideoFrame

# FFmpeg's numbers of field orders, by the field that is shown first.
_FIRST_FIELD = {2: "tff", 5: "tff", 3: "bff", 4: "bff"}
_FLAGS_EACH_FRAME = {
    "av1", "cavs", "dnxhd", "dvvideo", "h264", "hevc", "libdav1d", "mpeg1video", "mpeg2video", "mpeg4",
    "prores", "vc1", "vp8", "vp9", "vvc", "wmv3",
}  # fmt: skip
"""Decoders that flag each frame as interlaced or not. For other codecs, only the container may flag the whole
video."""
_APP0 = 0xE0
_START_OF_FRAME = (0xC0, 0xC1, 0xC2)
_KEPT = (
    "pts", "dts", "time_base", "duration", "color_range", "colorspace", "color_primaries", "color_trc",
)  # fmt: skip


def stated_order(stream: Any) -> str | None:
    """Return `tff` or `bff` if the container flags the whole stream as interlaced."""
    context = stream.codec_context
    if context is None or context.name in _FLAGS_EACH_FRAME:
        return None
    return _FIRST_FIELD.get(int(getattr(context, "field_order", 0)))


def jpeg_order(data: bytes, height: int) -> str | None:
    """Return `tff` or `bff` if a packet of Motion JPEG holds two fields, each an image of half the height.

    FFmpeg weaves them without flagging the frame. The segment AVI1 states which field is first.
    """
    order, position = "tff", 2
    while data[position : position + 1] == b"\xff" and position + 9 <= len(data):
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        content = data[position + 4 : position + 2 + length]
        if marker == _APP0 and content[:4] == b"AVI1" and any(content[4:5]):
            order = "bff"
        if marker in _START_OF_FRAME:
            return order if 4 * int.from_bytes(content[1:3], "big") < 3 * height else None
        position += 2 + length
    return None


def deinterlaced(frames: Iterable[VideoFrame], order: str | None = None) -> Iterator[VideoFrame]:
    """Yield the frames, deinterlaced if they are flagged as interlaced, or all of them if `order` is given.

    FFmpeg's `bwdif` keeps the lines of the first field and interpolates the others, along the motion between
    the frames before and after. Raises FFmpeg's errors.
    """
    bwdif: _Bwdif | None = None
    for frame in frames:
        if bwdif is not None and not bwdif.fits(frame):
            yield from bwdif.finish()
            bwdif = None
        if bwdif is None and (order or frame.interlaced_frame):
            bwdif = _Bwdif(frame, order)
        if bwdif is None:
            yield frame
        else:
            yield from bwdif.push(frame)
    if bwdif is not None:
        yield from bwdif.finish()


class _Bwdif:
    """The filter `bwdif` for frames of one size and format. Frames are delayed by one."""

    def __init__(self, frame: VideoFrame, order: str | None) -> None:
        self._form = _form_of(frame)
        self._pending: deque[dict[str, Any]] = deque()
        self._graph = av.filter.Graph()
        which = f"parity={order}:deint=all" if order else "parity=auto:deint=interlaced"
        nodes = [
            self._graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
            ),
            self._graph.add("bwdif", f"mode=send_frame:{which}"),
            self._graph.add("buffersink"),
        ]
        self._graph.link_nodes(*nodes).configure()

    def fits(self, frame: VideoFrame) -> bool:
        """Return whether the filter accepts a frame."""
        return _form_of(frame) == self._form

    def push(self, frame: VideoFrame) -> Iterator[VideoFrame]:
        """Pass a frame to the filter and yield those that are complete."""
        self._pending.append({name: getattr(frame, name) for name in _KEPT})
        self._graph.vpush(frame)
        return self._complete()

    def finish(self) -> Iterator[VideoFrame]:
        """Yield the remaining frames."""
        self._graph.vpush(None)
        return self._complete()

    def _complete(self) -> Iterator[VideoFrame]:
        while True:
            try:
                frame: Any = self._graph.vpull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            for name, value in self._pending.popleft().items():
                setattr(frame, name, value)
            yield frame


def _form_of(frame: VideoFrame) -> tuple[int, int, str]:
    return frame.width, frame.height, frame.format.name
