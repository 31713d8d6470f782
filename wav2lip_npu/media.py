"""Pictures in: videos of any container, rate and orientation, and still images, as a stream of frames.

Pictures are BGR wherever they are not planes: the networks were trained on BGR. Decoding is PyAV's
(FFmpeg's libraries inside the wheel); nothing is written to disk and no other program is started.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageOps

from wav2lip_npu.errors import MediaError, UsageError
from wav2lip_npu.planes import Colour, Image, Planes

log = logging.getLogger(__name__)

LOOPS = ("none", "loop", "pingpong", "hold")
STILL_FPS = Fraction(25)
_JITTER = 0.75  # frames that a time stamp may be off its place before a frame is doubled or dropped
_REVERSE_BYTES = 96 << 20
_FINEST_RATE = 1001  # denominator of the broadcast rates
# FFmpeg's numbers for the matrix; what is not here is read as BT.601, as FFmpeg does.
_MATRIX = {1: "bt709", 7: "smpte240m", 9: "bt2020", 10: "bt2020"}
_BT709_LABELS = (1, 1, 1, 1)
_GUESSED_LENGTH = {"mp3", "aac", "mpeg", "mpegts"}  # from the bit rate, not from an index
_PLANAR = {"yuv420p", "yuvj420p", "yuva420p"}

Picture = Callable[[Planes], Planes]


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
    planes: Planes
    source: int

    @property
    def image(self) -> Image:
        """The picture as BGR uint8 [H, W, 3]."""
        return self.planes.to_image()


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Changes to the whole picture, in this order."""

    resize_factor: int = 1
    """Shrink the whole video by this whole number."""
    rotate: bool = False
    """Turn the whole video 90 degrees clockwise (metadata rotation is obeyed without it)."""
    crop: tuple[int, int, int, int] = (0, -1, 0, -1)
    """Keep only rows TOP..BOTTOM and columns LEFT..RIGHT of the whole video; -1 is the far edge."""

    def apply(self, planes: Planes) -> Planes:
        """The picture resized, rotated and cropped. Raises `UsageError` when nothing would be left."""
        if self.resize_factor < 1:
            raise UsageError(f"--resize_factor {self.resize_factor} is not a whole number of at least 1.")
        if self.resize_factor > 1:
            planes = planes.shrunk(self.resize_factor)
        if self.rotate:
            planes = planes.rotated(-1)
        if self.crop != (0, -1, 0, -1):
            top, bottom, left, right = self.crop
            bottom = planes.height if bottom == -1 else bottom
            right = planes.width if right == -1 else right
            if not (0 <= top < bottom <= planes.height and 0 <= left < right <= planes.width):
                raise UsageError(
                    f"--crop {' '.join(map(str, self.crop))} is outside the frame of "
                    f"{planes.width}x{planes.height}. Pass top bottom left right within it, -1 for the far edge."
                )
            planes = planes.cropped(top, bottom, left, right)
        return planes


AS_IS = Geometry()


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """Size, rate and form of a video or image. Raises `MediaError` when it is neither."""
    if is_image(path):
        image = _read_image(path)
        height, width = image.shape[:2]
        return VideoInfo(width, height, STILL_FPS, 1, 0, False, True, Fraction(1))
    with open_media(path) as container:
        stream = _video_stream(container, path)
        rate = stream.average_rate or stream.guessed_rate or stream.base_rate or STILL_FPS
        _, first = next(_decode(path), (0, None))
        if first is None:
            raise MediaError(f"no picture in {path} can be decoded: damaged or truncated. Check it in a player.")
        quarters = _quarters(first)
        size = (first.height, first.width) if quarters % 2 else (first.width, first.height)
        aspect = Fraction(stream.sample_aspect_ratio or 1)
        return VideoInfo(
            *size,
            fps=Fraction(rate).limit_denominator(_FINEST_RATE),
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
    if is_image(path):
        planes = geometry.apply(Planes.from_image(_read_image(path), Colour("bt709", False, _BT709_LABELS)))
        yield from (Frame(index, planes, 0) for index in itertools.count())
        return
    fps = fps or probe(path).fps
    prepare = geometry.apply
    shown: list[int] = []  # time stamp of the picture at each place
    last = None
    for source, (key, planes) in enumerate(_paced(path, fps, prepare)):
        shown.append(key)
        last = Frame(source, planes, source)
        yield last
    if last is None:
        raise MediaError(f"no picture in {path} can be decoded: damaged or truncated. Check it in a player.")
    check_whole(path, "video", float(len(shown) / fps))
    passes: Iterator[tuple[int, Planes]]
    if loop == "none":
        return
    if loop == "hold" or len(shown) == 1:
        passes = itertools.repeat((last.source, last.planes))
    elif loop == "loop":
        passes = itertools.chain.from_iterable(
            _replay(path, shown, 0, len(shown), prepare) for _ in itertools.repeat(None)
        )
    else:
        there = range(1, len(shown)), range(len(shown) - 1)
        passes = itertools.chain.from_iterable(
            itertools.chain(_backwards(path, shown, there[1], prepare), _replay(path, shown, 1, len(shown), prepare))
            for _ in itertools.repeat(None)
        )
    for index, (source, planes) in enumerate(passes, start=len(shown)):
        yield Frame(index, planes, source)


def open_media(path: str | os.PathLike[str]) -> av.container.InputContainer:
    """A media file opened for reading. Raises `MediaError` saying what it is instead."""
    try:
        size = os.stat(path).st_size
        if not size:
            raise MediaError(f"{path} is empty. Copy the file again.")
        _check_riff(path, size)
        # "file:" keeps a name with a colon from being read as a protocol; the white list keeps a
        # playlist inside the file from reaching the network.
        url = "file:" + os.fspath(path)
        return av.open(url, metadata_errors="replace", options={"protocol_whitelist": "file"})
    except av.error.InvalidDataError:
        raise MediaError(f"{path} is not a media file, or its beginning or index is missing (truncated).") from None
    except OSError as error:
        raise MediaError(f"cannot read {path}: {error.strerror or error}.") from None


def is_image(path: str | os.PathLike[str]) -> bool:
    """Whether the content (not the name) is a still image; moving GIF, PNG and WebP are videos."""
    try:
        with Pillow.open(path) as image:
            return not getattr(image, "is_animated", False)
    except (OSError, ValueError, SyntaxError, Pillow.DecompressionBombError):
        return False


def _read_image(path: str | os.PathLike[str]) -> Image:
    """BGR uint8 [H, W, 3], upright by its EXIF tag, on white where it is transparent."""
    try:
        with Pillow.open(path) as opened:
            upright = ImageOps.exif_transpose(opened)
            if "A" in upright.getbands() or "transparency" in upright.info:
                layer = upright.convert("RGBA")
                upright = Pillow.alpha_composite(Pillow.new("RGBA", layer.size, "white"), layer)
            if upright.mode.startswith("I;16"):
                upright = upright.point(lambda value: value / 256).convert("L")
            rgb = np.asarray(upright.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Pillow.DecompressionBombError) as error:
        raise MediaError(f"cannot read image {path}: {error}.") from None
    return np.ascontiguousarray(rgb[:, :, ::-1])


def is_cover(stream: Any) -> bool:
    """Whether a video stream is only the cover picture of a sound file."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _video_stream(container: Any, path: str | os.PathLike[str]) -> Any:
    for stream in container.streams.video:
        if not is_cover(stream):
            return stream
    raise MediaError(f"{path} holds sound but no picture. Pass a video or an image.")


def _decode(path: str | os.PathLike[str], seek_to: int | None = None) -> Iterator[tuple[int, VideoFrame]]:
    """Decoded frames with their time stamps; their number where there are none. Skips damaged packets."""
    with open_media(path) as container:
        stream = _video_stream(container, path)
        stream.thread_type = "AUTO"
        if seek_to is not None:
            container.seek(seek_to, stream=stream)
        damaged = 0
        count = itertools.count()
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    break
                frames: Sequence[VideoFrame] = packet.decode()
            except av.error.EOFError:
                break
            except av.error.FFmpegError:
                damaged += 1
                if damaged > 1000:
                    raise MediaError(f"{path} is damaged: over 1000 of its packets cannot be decoded.") from None
                continue
            for frame in frames:
                number = next(count)
                yield (number if frame.pts is None else frame.pts), frame
        if damaged:
            log.warning("%s: %d damaged packets skipped", path, damaged)


def _paced(path: str | os.PathLike[str], fps: Fraction, prepare: Picture) -> Iterator[tuple[int, Planes]]:
    """Time stamp and picture of each place at a constant rate.

    A picture goes to the place after the last one while its time is within `_JITTER` frames of it, so
    that uneven time stamps neither double nor drop it, else to the place nearest to its time.
    """
    first = held = None
    place = -1
    to_planes = _converter(prepare)
    for number, (key, frame) in enumerate(_decode(path)):
        if frame.pts is None or frame.time_base is None:
            position = float(number)
        else:
            first = frame.pts if first is None else first
            position = float((frame.pts - first) * frame.time_base * fps)
        if abs(position - (place + 1)) <= _JITTER:
            target = place + 1
        else:
            target = int(position + 0.5)
        if target <= place:
            continue
        planes = to_planes(frame)
        if held is not None:
            for _ in range(place + 1, target):
                yield held
        held = (key, planes)
        place = target
        yield held


def _replay(
    path: str | os.PathLike[str], shown: Sequence[int], start: int, stop: int, prepare: Picture
) -> Iterator[tuple[int, Planes]]:
    """Place and picture of places start..stop once more, as the first pass put them."""
    to_planes = _converter(prepare)
    place = start
    for seek_to in ([shown[start]] if start else []) + [None]:
        for key, frame in _decode(path, seek_to):
            if key > shown[place]:
                break  # the seek went too far, or the file changed
            if key < shown[place]:
                continue
            planes = to_planes(frame)
            while place < stop and shown[place] == key:
                yield place, planes
                place += 1
            if place == stop:
                return
    raise MediaError(f"{path} changed or became unreadable while it was being read.")


def _backwards(
    path: str | os.PathLike[str], shown: Sequence[int], places: range, prepare: Picture
) -> Iterator[tuple[int, Planes]]:
    """Place and picture of `places` from last to first, decoded in pieces of bounded size."""
    stop = places.stop
    piece = 8
    while stop > places.start:
        start = max(places.start, stop - piece)
        pictures = list(_replay(path, shown, start, stop, prepare))
        piece = max(8, _REVERSE_BYTES // pictures[0][1].nbytes)
        stop = start
        while pictures:
            yield pictures.pop()


def check_whole(path: str | os.PathLike[str], kind: str, seconds: float) -> None:
    """Raise `MediaError` when far less than the container promises of its `video` or `audio` was decoded."""
    with open_media(path) as container:
        stream = getattr(container.streams, kind)[0]
        if stream.duration is None or stream.time_base is None or container.format.name in _GUESSED_LENGTH:
            return
        stated = float(stream.duration * stream.time_base)
    if seconds < 0.9 * stated and stated - seconds > 0.5:
        raise MediaError(
            f"{path} is truncated: its {kind} ends at {seconds:.1f} s of {stated:.1f} s. Copy the file again."
        )


def _check_riff(path: str | os.PathLike[str], size: int) -> None:
    """Raise when a WAV or AVI file is shorter than its header says; FFmpeg would not mention it."""
    with open(path, "rb") as file:
        head = file.read(8)
    stated = int.from_bytes(head[4:8], "little") + 8
    unknown = stated == 8 or stated >= 0x7FFF0000  # written to a pipe
    if head[:4] == b"RIFF" and not unknown and stated > size + 1:
        raise MediaError(f"{path} is truncated: {size:,} bytes of {stated:,}. Copy the file again.")


def _quarters(frame: VideoFrame) -> int:
    """Counter-clockwise quarter turns that make the decoded picture upright."""
    return round(frame.rotation / 90) % 4


def _converter(prepare: Picture) -> Callable[[VideoFrame], Planes]:
    """From decoded frames, all to the size of the first, to upright and prepared planes."""
    size: tuple[int, int] | None = None

    def convert(frame: VideoFrame) -> Planes:
        nonlocal size
        size = size or (frame.width, frame.height)
        planes = _planes_of(frame, size)
        quarters = _quarters(frame)
        return prepare(planes.rotated(quarters) if quarters else planes)

    return convert


def _planes_of(frame: VideoFrame, size: tuple[int, int]) -> Planes:
    name = frame.format.name
    space = int(frame.colorspace)
    if name.startswith(("rgb", "bgr", "gbr", "argb", "abgr", "pal8", "0", "x2")):
        colour = Colour("bt709", False, _BT709_LABELS)
        frame = frame.reformat(
            *size, format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
        )
        return _views(frame, colour)
    full = int(frame.color_range) == 2 or name.startswith("yuvj") or name.startswith("gray")
    labels = (2 if full else int(frame.color_range), space, int(frame.color_primaries), int(frame.color_trc))
    colour = Colour(_MATRIX.get(space, "bt601"), full, labels)
    if name not in _PLANAR or (frame.width, frame.height) != size:
        same_range = ColorRange.JPEG if full else ColorRange.MPEG
        frame = frame.reformat(*size, format="yuv420p", src_color_range=same_range, dst_color_range=same_range)
    return _views(frame, colour)


def _views(frame: VideoFrame, colour: Colour) -> Planes:
    return Planes.padded(*(_plane(frame, number) for number in range(3)), colour)


def _plane(frame: VideoFrame, number: int) -> NDArray[np.uint8]:
    """A view of one plane without the padding of its lines; the decoder's memory lives as long as it."""
    plane = frame.planes[number]
    lines = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    return lines[: plane.height, : plane.width]
