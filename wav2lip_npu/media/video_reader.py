"""Read frames from videos of any container, rate and orientation, and from images.

Frames are upright and come at a constant rate. They stay in YUV (`Frame.yuv`) until `Frame.image` converts
them to BGR, which the networks were trained on.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

import av
from av.video.frame import VideoFrame

from wav2lip_npu.errors import MediaError
from wav2lip_npu.media import container as containers
from wav2lip_npu.media.container import LONGEST_GAP_S, VideoInfo
from wav2lip_npu.media.geometry import Geometry, rotate
from wav2lip_npu.media.images import read_image, read_webp
from wav2lip_npu.media.yuv_image import SCREEN, Image, YuvImage

Loop = Literal["none", "loop", "pingpong", "hold"]
LOOPS: tuple[str, ...] = get_args(Loop)
_JITTER = 0.75
"""Frames by which a time stamp may deviate before a frame is repeated or dropped."""
_STEP_BACK_S = 0.5
"""Seconds. A larger backward step between time stamps is a clock jump."""
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

    Raises:
        MediaError: No frame can be decoded, or the file ends long before its stated length.
        UsageError: The crop of `geometry` is outside the frame.

    """
    assert loop in LOOPS, loop
    info = containers.probed(source)
    if info.is_image:
        yuv = geometry.apply(YuvImage.from_image(read_image(info.path), SCREEN))
        yield from (Frame(index, yuv, 0) for index in itertools.count())
        return
    video = _Video(info, fps or info.fps, geometry)
    last = None
    for number, yuv in video.first_pass():
        last = Frame(number, yuv, number)
        yield last
    if last is None:
        raise containers.no_frame(info.path)
    length = last.index + 1
    containers.check_complete(info.path, "video", float(length / video.fps), info.duration)
    passes: Iterator[tuple[int, YuvImage]] = iter(())
    if loop == "hold" or (loop != "none" and length == 1):
        passes = itertools.repeat((last.source, last.yuv))
    elif loop == "loop":
        passes = _endless(lambda: video.replay(0, length))
    elif loop == "pingpong":
        passes = _endless(lambda: itertools.chain(video.backwards(0, length - 1), video.replay(1, length)))
    del last
    for index, (number, yuv) in enumerate(passes, start=length):
        yield Frame(index, yuv, number)


class _Video:
    """A video at a constant rate that can be read repeatedly and from any frame."""

    def __init__(self, info: VideoInfo, fps: Fraction, geometry: Geometry) -> None:
        self.fps = fps
        self._info = info
        self._geometry = geometry
        self._stamps: list[int] | None = []
        self._size: tuple[int, int] | None = None
        self._converted: tuple[VideoFrame, YuvImage] | None = None

    def first_pass(self) -> Iterator[tuple[int, YuvImage]]:
        """Yield number and image of all frames, and store their time stamps for `replay`."""
        for number, frame in enumerate(_at_constant_rate(self._info, self.fps)):
            if self._stamps is not None:
                if frame.pts is None or (self._stamps and frame.pts < self._stamps[-1]):
                    self._stamps = None  # seeking by them is impossible
                else:
                    self._stamps.append(frame.pts)
            yield number, self._convert(frame)

    def replay(self, start: int, stop: int) -> Iterator[tuple[int, YuvImage]]:
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
        for number, frame in enumerate(_at_constant_rate(self._info, self.fps)):
            if number == wanted:
                yield wanted, self._convert(frame)
                wanted += 1
                if wanted == stop:
                    return
        raise MediaError(
            f"{self._info.path} changed or became unreadable while it was being read. Run the command again."
        )

    def backwards(self, start: int, stop: int) -> Iterator[tuple[int, YuvImage]]:
        """Yield number and image of frames start..stop from last to first, decoded in bounded pieces."""
        piece = 8
        while stop > start:
            first = max(start, stop - piece)
            frames = list(self.replay(first, stop))
            piece = max(8, _REVERSE_BYTES // frames[0][1].nbytes)
            stop = first
            while frames:
                yield frames.pop()

    def _convert(self, frame: VideoFrame) -> YuvImage:
        """Return the frame at the size of the first, upright, with the geometry applied.

        The result for a frame that is shown repeatedly is one object.
        """
        if self._converted is None or self._converted[0] is not frame:
            self._size = self._size or (frame.width, frame.height)
            yuv = YuvImage.from_frame(frame, *self._size)
            quarters = containers.quarter_turns(frame)
            self._converted = frame, self._geometry.apply(rotate(yuv, quarters) if quarters else yuv)
        return self._converted[1]


def _endless(one_pass: Callable[[], Iterator[tuple[int, YuvImage]]]) -> Iterator[tuple[int, YuvImage]]:
    while True:
        yield from one_pass()


def _at_constant_rate(info: VideoInfo, fps: Fraction) -> Iterator[VideoFrame]:
    """Yield the decoded frame to show at each multiple of 1 / fps; a held frame is repeated.

    A frame directly follows the previous one if its time is within `_JITTER` frames of that position, so that
    uneven time stamps neither repeat nor drop it; otherwise it goes to the nearest multiple. After a clock
    jump, such as between joined recordings, the frame directly follows the previous one.
    """
    frame = held = previous = None
    start = position = Fraction(0)
    shown = -1
    for frame in _decode(info):
        stamp = frame.dts if frame.pts is None else frame.pts
        if stamp is None or frame.time_base is None:
            position = Fraction(shown + 1)
        else:
            time = stamp * frame.time_base
            if previous is None or not -_STEP_BACK_S < time - previous < LONGEST_GAP_S:
                start = time - (shown + 1) / fps
            previous = time
            position = (time - start) * fps
        target = shown + 1 if abs(position - (shown + 1)) <= _JITTER else int(position + Fraction(1, 2))
        if target <= shown:
            continue
        if held is not None:
            yield from itertools.repeat(held, target - shown - 1)
        held, shown = frame, target
        yield held
    if held is not None and held is frame and held.duration and held.time_base is not None:
        length = min(held.duration * held.time_base, Fraction(LONGEST_GAP_S))
        if (rest := position + length * fps - (shown + 1)) > _JITTER:
            yield from itertools.repeat(held, round(rest))


def _decode(info: VideoInfo, seek_to: int | None = None) -> Iterator[VideoFrame]:
    """Yield decoded frames from the key frame before a time stamp, or from the first frame."""
    if info.kind == "webp":
        yield from read_webp(info.path)
        return
    with containers.open_probed(info) as container:
        stream = containers.video_stream(container, info.path)
        if seek_to is not None:
            with contextlib.suppress(av.error.FFmpegError):
                container.seek(seek_to, stream=stream)
        for frame in containers.decode(container, stream, info.path):
            if container.format.name == "avi":
                frame.pts = None  # AVI stores only the order; FFmpeg's guess is wrong with B-frames
            if stream.codec_context.has_b_frames:
                frame.duration = 0  # FFmpeg gives the duration of another frame
            yield frame
