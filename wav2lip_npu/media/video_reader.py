"""Read frames from videos of any container, rate and orientation, from images and from memory.

Frames are upright and come at a constant rate. They stay in YUV (`Frame.yuv`) until `Frame.image` converts
them to BGR, which the networks were trained on.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

import av
from av.video.frame import VideoFrame

from wav2lip_npu.errors import MediaError
from wav2lip_npu.media import container as containers
from wav2lip_npu.media.container import VideoInfo
from wav2lip_npu.media.deinterlace import deinterlaced
from wav2lip_npu.media.frame_rate import at_constant_rate
from wav2lip_npu.media.frame_sequence import FrameSequence, Numbered
from wav2lip_npu.media.geometry import Geometry, upright
from wav2lip_npu.media.heif import decode_grid, read_grid
from wav2lip_npu.media.images import read_image, read_webp
from wav2lip_npu.media.orientation import orientation_of
from wav2lip_npu.media.yuv_image import SCREEN, Image, YuvImage

Loop = Literal["none", "loop", "pingpong", "hold"]
LOOPS: tuple[str, ...] = get_args(Loop)
_SEEK_LEAD = 16
"""Number of frames before the target to seek to: a codec may reorder that many frames."""
_REVERSE_BYTES = 96 << 20
"""Bytes of frames that are decoded at once for reverse playback."""
_ORIGINAL = Geometry()


@dataclass(frozen=True)
class Frame:
    """One frame of the output."""

    index: int
    """Number of the frame in the output, from 0."""
    yuv: YuvImage
    source: int
    """Number of the frame in the face video; it repeats when the video is looped or a frame is held."""
    is_repeated: bool = False
    """Whether the frame repeats an earlier one, after the end of the face video."""

    @property
    def image(self) -> Image:
        """The frame as BGR uint8 [H, W, 3]."""
        return self.yuv.to_image()


def read_frames(
    source: VideoInfo | str | os.PathLike[str],
    *,
    fps: Fraction | None = None,
    loop: Loop = "none",
    geometry: Geometry = _ORIGINAL,
    start: int = 0,
) -> Iterator[Frame]:
    """Yield the frames of a video at a constant rate; for an image, yield the same frame endlessly.

    Memory use is bounded, even with `loop`.

    Args:
        source: A `VideoInfo` from `probe`, or the path of a file, which is then probed.
        fps: Frame rate of the result. Default: that of the video. A variable rate becomes constant:
            time stamps determine which frame is shown at what time.
        loop: What follows the last frame: `none` ends, `loop` starts over, `pingpong` plays backwards and
            forwards without repeating the turning frames, `hold` repeats the last frame endlessly.
        geometry: Changes to each frame.
        start: Number of frames to skip at the beginning, which are only decoded. Indices still start at 0.

    Raises:
        MediaError: No frame can be decoded, or the file ends long before its stated length.
        UsageError: The crop of `geometry` is outside the frame.

    """
    assert loop in LOOPS, loop
    info = containers.probed(source)
    if info.is_image:
        yuv = geometry.apply(_still_image(info))
        yield from (Frame(index, yuv, 0) for index in itertools.count())
        return
    video = info if isinstance(info, FrameSequence) else _Video(info, fps or info.fps, geometry)
    indices = itertools.count()
    for number, yuv in video.first_pass(start):
        yield Frame(next(indices), yuv, number)
    for number, yuv in _repeated(video, loop, start):
        yield Frame(next(indices), yuv, number, is_repeated=True)


def frame_at(info: VideoInfo, seconds: float) -> YuvImage:
    """Return the frame that is shown at a time, found by its time stamp; after the end, the last one.

    Only the frames from the key frame before it are decoded. Raises `MediaError`.
    """
    if info.is_image:
        return _still_image(info)
    with containers.open_probed(info) as container:
        stream = containers.video_stream(container, info.path)
        first = stream.start_time or 0
        target = first + round(Fraction(seconds) / stream.time_base)
    shown: VideoFrame | None = None
    for seek_to in (target, None):  # once more from the beginning, if nothing can be decoded from there on
        for frame in _decode(info, seek_to):
            is_later = frame.pts is not None and frame.pts > target
            if shown is not None and is_later:
                break
            shown = frame
            if is_later:
                break
        if shown is not None:
            return _upright(info, shown, (shown.width, shown.height))
    raise containers.no_frame(info.path)


def _repeated(video: _Video | FrameSequence, loop: Loop, start: int) -> Iterator[Numbered]:
    """Yield number and image of the frames after the first pass, beginning at frame `start` of the output."""
    length = video.length
    offset = max(0, start - length)
    if loop == "none":
        return
    if loop == "hold" or length == 1:
        yield from itertools.repeat(video.last)
    elif loop == "loop":
        yield from video.replay(offset % length, length)
        while True:
            yield from video.replay(0, length)
    offset %= 2 * length - 2
    while True:
        yield from video.backwards(0, length - 1 - offset)
        yield from video.replay(1 + max(0, offset - (length - 1)), length)
        offset = 0


class _Video:
    """A video at a constant rate that can be read repeatedly and from any frame."""

    def __init__(self, info: VideoInfo, fps: Fraction, geometry: Geometry) -> None:
        self.fps = fps
        self.length = 0
        """Number of frames, after the first pass."""
        self._info = info
        self._geometry = geometry
        self._last: VideoFrame | None = None
        self._stamps: list[int] | None = []
        self._size: tuple[int, int] | None = None
        self._converted: tuple[VideoFrame, YuvImage] | None = None

    def first_pass(self, start: int = 0) -> Iterator[Numbered]:
        """Yield number and image of all frames from `start` on, and store all time stamps for `replay`.

        Raises `MediaError` at the end if no frame was decoded, or far fewer than the file states.
        """
        for number, frame in enumerate(self._frames()):
            self._size = self._size or (frame.width, frame.height)
            if self._stamps is not None:
                if frame.pts is None or (self._stamps and frame.pts < self._stamps[-1]):
                    self._stamps = None  # seeking by them is impossible
                else:
                    self._stamps.append(frame.pts)
            self.length, self._last = number + 1, frame
            if number >= start:
                yield number, self._convert(frame)
        if not self.length:
            raise containers.no_frame(self._info.path)
        seconds = float(self.length / self.fps)
        containers.check_complete(self._info.path, "video", seconds, self._info.duration)

    @property
    def last(self) -> Numbered:
        """Number and image of the last frame, after the first pass."""
        assert self._last is not None
        return self.length - 1, self._convert(self._last)

    def replay(self, start: int, stop: int) -> Iterator[Numbered]:
        """Yield number and image of frames start..stop again, identical to the first pass."""
        wanted = start
        if self._stamps is not None and start > _SEEK_LEAD:
            for frame in _decode(self._info, self._stamps[start - _SEEK_LEAD]):
                if frame.pts is None or frame.pts > self._stamps[wanted]:
                    break  # the seek went too far
                while wanted < stop and self._stamps[wanted] == frame.pts:
                    yield wanted, self._convert(frame)
                    wanted += 1
                if wanted == stop:
                    return
        for number, frame in enumerate(self._frames()):
            if number == wanted:
                yield wanted, self._convert(frame)
                wanted += 1
                if wanted == stop:
                    return
        raise MediaError(
            f"{self._info.path} changed or became unreadable while it was being read. Run the command again."
        )

    def backwards(self, start: int, stop: int) -> Iterator[Numbered]:
        """Yield number and image of frames start..stop from last to first, decoded in bounded pieces."""
        piece = 8
        while stop > start:
            first = max(start, stop - piece)
            frames = list(self.replay(first, stop))
            piece = max(8, _REVERSE_BYTES // frames[0][1].nbytes)
            stop = first
            while frames:
                yield frames.pop()

    def _frames(self) -> Iterator[VideoFrame]:
        return at_constant_rate(_decode(self._info), self.fps, self._info.fps)

    def _convert(self, frame: VideoFrame) -> YuvImage:
        """Return the frame at the size of the first, upright, with the geometry applied.

        The result for a frame that is shown repeatedly is one object.
        """
        if self._converted is None or self._converted[0] is not frame:
            assert self._size is not None
            self._converted = frame, self._geometry.apply(_upright(self._info, frame, self._size))
        return self._converted[1]


def _still_image(info: VideoInfo) -> YuvImage:
    if isinstance(info, FrameSequence):
        return info.last[1]
    if info.kind == "image":
        return YuvImage.from_image(read_image(info.path), SCREEN)
    grid = read_grid(info.path)
    if grid is not None:
        with containers.open_probed(info) as container:
            return upright(decode_grid(container, grid, info.path), grid.orientation)
    frame = next(_decode(info), None)
    if frame is None:
        raise containers.no_frame(info.path)
    return _upright(info, frame, (frame.width, frame.height))


def _upright(info: VideoInfo, frame: VideoFrame, size: tuple[int, int]) -> YuvImage:
    """Return a decoded frame at a size, as players show it. Raises `MediaError`."""
    try:
        yuv = YuvImage.from_frame(frame, *size)
    except av.error.FFmpegError as error:
        raise MediaError(
            f"frames of {info.path} cannot be converted from {frame.format.name}: {error.strerror}. "
            "Convert the video to yuv420p."
        ) from error
    return upright(yuv, orientation_of(frame))


def _decode(info: VideoInfo, seek_to: int | None = None) -> Iterator[VideoFrame]:
    """Yield decoded frames from the key frame before a time stamp, or from the first frame.

    Raises `MediaError`.
    """
    if info.kind == "webp":
        yield from read_webp(info.path)
        return
    try:
        yield from _decode_video(info, seek_to)
    except av.error.FFmpegError as error:
        raise MediaError(f"cannot decode {info.path}: {error.strerror}. Convert it to H.264.") from error


def _decode_video(info: VideoInfo, seek_to: int | None) -> Iterator[VideoFrame]:
    with containers.open_probed(info) as container:
        stream = containers.video_stream(container, info.path)
        if seek_to is not None:
            with contextlib.suppress(av.error.FFmpegError):
                container.seek(seek_to, stream=stream)
        decoded = containers.decode(container, stream, info.path)
        if info.kind == "video":
            decoded = deinterlaced(decoded, info.field_order)
        for frame in decoded:
            if container.format.name == "avi":
                frame.pts = None  # AVI stores only the order; FFmpeg's guess is wrong with B-frames
            if stream.codec_context.has_b_frames:
                frame.duration = 0  # FFmpeg gives the duration of another frame
            yield frame
