"""Pictures in: videos of any container, rate and orientation, and still images, as a stream of frames.

Pictures are BGR wherever they are not planes: the networks were trained on BGR. Decoding is PyAV's
(FFmpeg's libraries inside the wheel); nothing is written to disk and no other program is started.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
from av.video.frame import VideoFrame

from wav2lip_npu.errors import MediaError
from wav2lip_npu.media.geometry import Geometry, rotate
from wav2lip_npu.media.images import decode_webp, is_image, is_moving_webp, read_image
from wav2lip_npu.media.yuv_image import SCREEN, Image, YuvImage

log = logging.getLogger(__name__)

LOOPS = ("none", "loop", "pingpong", "hold")
STILL_FPS = Fraction(25)
_JITTER = 0.75  # frames that a time stamp may be off its place before a frame is doubled or dropped
LONGEST_HOLD_S = 600  # a larger hole in the time stamps is a jump of the clock
_STEP_BACK_S = 0.5  # as is a larger step back
_LEAD = 16  # places before the wanted one to seek to: a codec may reorder so many frames
_REVERSE_BYTES = 96 << 20
_FINEST_RATE = 1001  # denominator of the broadcast rates
_GUESSED_LENGTH = {"mp3", "aac", "mpeg", "mpegts"}  # from the bit rate, not from an index
_RIFF_SLACK = 64  # bytes; some writers count the header twice
# No network, no playlist (it names other files, and FFmpeg waits for more of a live one), no text.
_PLAYLISTS = {"hls", "concat", "dash", "webm_dash_manifest", "imf", "image2", "lavfi", "rtsp", "sdp", "tty"}
_CLOSED = {
    "protocol_whitelist": "file",
    "format_whitelist": ",".join(sorted(av.formats_available - _PLAYLISTS)),
}


@dataclass(frozen=True)
class VideoInfo:
    """What a face video or image is, upright."""

    width: int
    height: int
    fps: Fraction
    frames: int | None
    """As stated by the container, `None` when it does not say; 1 for an image."""
    rotation: int
    """Counter-clockwise quarter turns, in degrees, that its metadata asks for."""
    has_audio: bool
    is_image: bool
    pixel_aspect: Fraction


@dataclass(frozen=True)
class Frame:
    """An image at its place in the output.

    `source` is its place in the face video: the same picture carries the same number each time a
    looped video shows it.
    """

    index: int
    yuv: YuvImage
    source: int

    @property
    def image(self) -> Image:
        """The picture as BGR uint8 [H, W, 3]."""
        return self.yuv.to_image()


AS_IS = Geometry()


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """Size, rate and form of a video or image. Raises `MediaError` when it is neither."""
    if is_image(path):
        height, width = read_image(path).shape[:2]
        return VideoInfo(width, height, STILL_FPS, 1, 0, False, True, Fraction(1))
    first = next(_decode(path), None)
    if first is None:
        raise _no_picture(path)
    quarters = _quarters(first)
    size = (first.height, first.width) if quarters % 2 else (first.width, first.height)
    if is_moving_webp(path):
        lengths = [frame.duration for frame in decode_webp(path)]
        rate = Fraction(1000 * len(lengths), sum(lengths) or 100 * len(lengths))
        return VideoInfo(
            *size, rate.limit_denominator(_FINEST_RATE), len(lengths), 0, False, False, Fraction(1)
        )
    with open_media(path) as container:
        stream = _video_stream(container, path)
        rate = Fraction(stream.average_rate or stream.guessed_rate or stream.base_rate or STILL_FPS)
        aspect = Fraction(stream.sample_aspect_ratio or 1)
        return VideoInfo(
            *size,
            fps=rate.limit_denominator(_FINEST_RATE) or rate,
            frames=stream.frames or None,
            rotation=90 * quarters,
            has_audio=bool(container.streams.audio),
            is_image=False,
            pixel_aspect=1 / aspect if quarters % 2 else aspect,
        )


def read_frames(
    path: str | os.PathLike[str],
    *,
    fps: Fraction | None = None,
    loop: str = "none",
    geometry: Geometry = AS_IS,
) -> Iterator[Frame]:
    """The frames of a video at a constant rate, upright; of an image, the same picture for ever.

    `fps` is the video's own average rate unless given; the time stamps say which picture is shown when,
    so a variable rate becomes constant. With `loop` the stream does not end: `loop` starts over,
    `pingpong` goes back and forth without showing the turning frames twice, `hold` repeats the last
    picture; memory stays bounded in each case. Raises `MediaError` when nothing can be decoded or the
    file ends well before its stated length.
    """
    assert loop in LOOPS, loop
    if is_image(path):
        planes = geometry.apply(YuvImage.from_image(read_image(path), SCREEN))
        yield from (Frame(index, planes, 0) for index in itertools.count())
        return
    video = _Video(path, fps or probe(path).fps, geometry)
    last = None
    for source, planes in video.first_pass():
        last = Frame(source, planes, source)
        yield last
    if last is None:
        raise _no_picture(path)
    length = last.index + 1
    _check_length(path, float(length / video.fps))
    passes: Iterator[tuple[int, YuvImage]] = iter(())
    if loop == "hold" or (loop != "none" and length == 1):
        passes = itertools.repeat((last.source, last.yuv))
    elif loop == "loop":
        passes = _for_ever(lambda: video.replay(0, length))
    elif loop == "pingpong":
        passes = _for_ever(lambda: itertools.chain(video.backwards(0, length - 1), video.replay(1, length)))
    del last
    for index, (source, planes) in enumerate(passes, start=length):
        yield Frame(index, planes, source)


class _Video:
    """A video at a constant rate that can be read again from any place."""

    def __init__(self, path: str | os.PathLike[str], fps: Fraction, geometry: Geometry) -> None:
        self.fps = fps
        self._path = path
        self._geometry = geometry
        self._stamps: list[int] | None = []
        self._size: tuple[int, int] | None = None
        self._converted: tuple[VideoFrame, YuvImage] | None = None

    def first_pass(self) -> Iterator[tuple[int, YuvImage]]:
        """Place and picture of all places; the time stamps are kept for `replay`."""
        for place, frame in enumerate(_paced(self._path, self.fps)):
            if self._stamps is not None:
                if frame.pts is None or (self._stamps and frame.pts < self._stamps[-1]):
                    self._stamps = None  # nothing to seek by
                else:
                    self._stamps.append(frame.pts)
            yield place, self._planes(frame)

    def replay(self, start: int, stop: int) -> Iterator[tuple[int, YuvImage]]:
        """Place and picture of places start..stop once more, as the first pass put them."""
        place = start
        if self._stamps is not None and start > _LEAD:
            for frame in _decode(self._path, self._stamps[start - _LEAD]):
                if frame.pts is None or frame.pts > self._stamps[place]:
                    break  # the seek went too far
                while place < stop and self._stamps[place] == frame.pts:
                    yield place, self._planes(frame)
                    place += 1
                if place == stop:
                    return
        for number, frame in enumerate(_paced(self._path, self.fps)):
            if number == place:
                yield place, self._planes(frame)
                place += 1
                if place == stop:
                    return
        raise MediaError(f"{self._path} changed or became unreadable while it was being read.")

    def backwards(self, start: int, stop: int) -> Iterator[tuple[int, YuvImage]]:
        """The same from last to first, decoded in pieces of bounded size."""
        piece = 8
        while stop > start:
            first = max(start, stop - piece)
            pictures = list(self.replay(first, stop))
            piece = max(8, _REVERSE_BYTES // pictures[0][1].nbytes)
            stop = first
            while pictures:
                yield pictures.pop()

    def _planes(self, frame: VideoFrame) -> YuvImage:
        """The frame at the size of the first, upright and prepared; one that is held is converted once."""
        if self._converted is None or self._converted[0] is not frame:
            self._size = self._size or (frame.width, frame.height)
            planes = YuvImage.from_frame(frame, *self._size)
            quarters = _quarters(frame)
            self._converted = frame, self._geometry.apply(rotate(planes, quarters) if quarters else planes)
        return self._converted[1]


def _for_ever(one_pass: Callable[[], Iterator[tuple[int, YuvImage]]]) -> Iterator[tuple[int, YuvImage]]:
    while True:
        yield from one_pass()


def _paced(path: str | os.PathLike[str], fps: Fraction) -> Iterator[VideoFrame]:
    """The decoded frame for each place at a constant rate; one that is held comes again.

    A frame goes to the place after the last one while its time is within `_JITTER` frames of it, so that
    uneven time stamps neither double nor drop it, else to the place nearest to its time. Where the clock
    jumps, as between recordings that were joined, the next frame goes to the next place.
    """
    frame = held = before = None
    start = position = Fraction(0)
    place = -1
    for frame in _decode(path):
        stamp = frame.dts if frame.pts is None else frame.pts
        if stamp is None or frame.time_base is None:
            position = Fraction(place + 1)
        else:
            time = stamp * frame.time_base
            if before is None or not -_STEP_BACK_S < time - before < LONGEST_HOLD_S:
                start = time - (place + 1) / fps
            before = time
            position = (time - start) * fps
        target = place + 1 if abs(position - (place + 1)) <= _JITTER else int(position + Fraction(1, 2))
        if target <= place:
            continue
        if held is not None:
            yield from itertools.repeat(held, target - place - 1)
        held, place = frame, target
        yield held
    if held is not None and held is frame and held.duration and held.time_base is not None:
        length = min(held.duration * held.time_base, Fraction(LONGEST_HOLD_S))
        if (rest := position + length * fps - (place + 1)) > _JITTER:
            yield from itertools.repeat(held, round(rest))


def open_media(path: str | os.PathLike[str]) -> av.container.InputContainer:
    """A media file opened for reading. Raises `MediaError` saying what it is instead."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise MediaError(f"cannot read {path}: it is a directory, pipe or device. Pass a media file.")
        if not status.st_size:
            raise MediaError(f"{path} is empty. Copy the file again.")
        _check_riff(path, status.st_size)
        # "file:" keeps a name with a colon from being read as a protocol.
        return av.open("file:" + os.fspath(path), metadata_errors="replace", options=_CLOSED)
    except OSError as error:
        raise MediaError(f"cannot read {path}: {error.strerror or error}.") from None
    except av.error.FFmpegError:
        raise MediaError(
            f"{path} is not a media file, or its beginning or index is missing (truncated)."
        ) from None


def decode(container: Any, stream: Any, path: str | os.PathLike[str]) -> Iterator[Any]:
    """Decoded frames of a stream; damaged packets are left out, and the time stamps show the hole."""
    if stream.codec_context is None:
        raise MediaError(f"{path} holds {stream.type} of an unknown codec. Convert it to a common format.")
    stream.thread_type = "AUTO"
    damaged = 0
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                break
            frames = packet.decode()
        except av.error.EOFError:
            break
        except av.error.FFmpegError:
            damaged += 1
            if damaged > 1000:
                raise MediaError(f"{path} is damaged: over 1000 of its packets cannot be decoded.") from None
            continue
        yield from frames
    if damaged:
        log.warning("%s: %d damaged packets skipped", path, damaged)


def _decode(path: str | os.PathLike[str], seek_to: int | None = None) -> Iterator[VideoFrame]:
    """Decoded pictures, from the key frame before a time stamp or from the first."""
    if is_moving_webp(path):
        yield from decode_webp(path)
        return
    with open_media(path) as container:
        stream = _video_stream(container, path)
        if seek_to is not None:
            with contextlib.suppress(av.error.FFmpegError):
                container.seek(seek_to, stream=stream)
        for frame in decode(container, stream, path):
            if container.format.name == "avi":
                frame.pts = None  # AVI knows no more than an order: FFmpeg's guess is wrong with B frames
            if stream.codec_context.has_b_frames:
                frame.duration = 0  # that of another frame
            yield frame


def is_cover_art(stream: Any) -> bool:
    """Whether a video stream is only the cover picture of a sound file."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _video_stream(container: Any, path: str | os.PathLike[str]) -> Any:
    for stream in container.streams.video:
        if not is_cover_art(stream):
            return stream
    content = "sound but no picture" if container.streams.audio else "neither picture nor sound"
    raise MediaError(f"{path} holds {content}. Pass a video or an image.")


def _no_picture(path: str | os.PathLike[str]) -> MediaError:
    return MediaError(f"no picture in {path} can be decoded: damaged or truncated. Check it in a player.")


def _check_length(path: str | os.PathLike[str], seconds: float) -> None:
    if not is_moving_webp(path):
        with open_media(path) as container:
            check_whole(container, _video_stream(container, path), path, seconds)


def check_whole(container: Any, stream: Any, path: str | os.PathLike[str], seconds: float) -> None:
    """Raise `MediaError` when far less than the container promises of a stream was decoded."""
    stated = _stated_length(container, stream)
    if stated is not None and seconds < 0.9 * stated and stated - seconds > 0.5:
        raise MediaError(
            f"{path} is truncated: its {stream.type} ends at {seconds:.1f} s of {stated:.1f} s. "
            "Copy the file again."
        )


def _stated_length(container: Any, stream: Any) -> float | None:
    """Seconds that a stream lasts by what the file says, `None` where that cannot be relied on."""
    if container.format.name in _GUESSED_LENGTH or stream.time_base is None:
        return None
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    clock = re.fullmatch(r"(\d+):(\d\d):(\d\d\.?\d*)", stream.metadata.get("DURATION", ""))
    if clock is None:
        return None
    hours, minutes, seconds = map(float, clock.groups())  # Matroska: when its last packet ends
    return hours * 3600 + minutes * 60 + seconds - float((stream.start_time or 0) * stream.time_base)


def _check_riff(path: str | os.PathLike[str], size: int) -> None:
    """Raise when a WAV or AVI file is shorter than its header says; FFmpeg would not mention it."""
    with open(path, "rb") as file:
        head = file.read(8)
    stated = int.from_bytes(head[4:8], "little") + 8
    unknown = stated == 8 or stated >= 0x7FFF0000  # written to a pipe
    if head[:4] == b"RIFF" and not unknown and stated > size + _RIFF_SLACK:
        raise MediaError(f"{path} is truncated: {size:,} bytes of {stated:,}. Copy the file again.")


def _quarters(frame: VideoFrame) -> int:
    """Counter-clockwise quarter turns that make the decoded picture upright."""
    return round(frame.rotation / 90) % 4
