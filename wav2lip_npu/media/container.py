"""Open, probe and check media files, for the video reader and the audio reader.

PyAV decodes with the FFmpeg libraries in its wheel. No other program is started, nothing is written to disk,
and a media file cannot make FFmpeg open another file or a network connection.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, BinaryIO, Literal

import av
from av.video.frame import VideoFrame

from wav2lip_npu.errors import MediaError
from wav2lip_npu.media import images

log = logging.getLogger(__name__)

IMAGE_FPS = Fraction(25)
LONGEST_GAP_S = 600
"""Seconds. A longer gap between time stamps is a clock jump, not a pause."""
_MAX_DENOMINATOR = 1001
"""Denominator of the broadcast frame rates, such as 30000/1001."""
_ESTIMATED_LENGTH = {"mp3", "aac", "mpeg", "mpegts"}
"""Formats whose length FFmpeg estimates from the bit rate."""
_RIFF_TOLERANCE = 64
"""Bytes. Some writers count the header twice."""
_MAX_DAMAGED_PACKETS = 1000
# Playlists refer to other files, and FFmpeg waits for a live one to grow; "tty" accepts any text.
_PLAYLISTS = {"hls", "concat", "dash", "webm_dash_manifest", "imf", "image2", "lavfi", "rtsp", "sdp", "tty"}
_LOCAL_FILES_ONLY = {
    "protocol_whitelist": "file",
    "format_whitelist": ",".join(sorted(av.formats_available - _PLAYLISTS)),
}
# Metadata need not be UTF-8. PyAV 19 always decodes it this way; earlier versions need this argument.
_METADATA: dict[str, Any] = (
    {} if int(av.__version__.partition(".")[0]) >= 19 else {"metadata_errors": "surrogateescape"}
)


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """Properties of a video or image file. Width and height are those of the upright frame."""

    path: str
    kind: Literal["image", "webp", "video"]
    """`image` is a still image, `webp` an animated WebP, which FFmpeg cannot decode."""
    width: int
    height: int
    fps: Fraction
    """Average frame rate; 25 for an image."""
    frames: int | None
    """Number of frames stated by the container, or None; 1 for an image."""
    duration: float | None = None
    """Seconds of video stated by the container; None if that is missing or an estimate."""
    rotation: int = 0
    """Counter-clockwise rotation in the metadata, in degrees, a multiple of 90."""
    pixel_aspect: Fraction = Fraction(1)
    """Width of a pixel divided by its height."""
    has_audio: bool = False

    @property
    def is_image(self) -> bool:
        """Whether the file is a still image."""
        return self.kind == "image"


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """Return the properties of a video or image; its first frame is decoded.

    Raises:
        MediaError: The file cannot be read, is neither a video nor an image, or its first frame is damaged.

    """
    with _open_checked(path) as file:
        image = images.open_image(file, path)
        if image is not None:
            return _probe_image(path, image)
        _check_riff(file, path)
    with _open_container(path) as container:
        stream = video_stream(container, path)
        rate = Fraction(stream.average_rate or stream.guessed_rate or stream.base_rate or IMAGE_FPS)
        aspect = Fraction(stream.sample_aspect_ratio or 1)
        frames, has_audio = stream.frames or None, bool(container.streams.audio)
        duration = stated_duration(container, stream)
        first = next(decode(container, stream, path), None)
    if first is None:
        raise no_frame(path)
    quarters = quarter_turns(first)
    width, height = (first.height, first.width) if quarters % 2 else (first.width, first.height)
    return VideoInfo(
        path=os.fspath(path),
        kind="video",
        width=width,
        height=height,
        fps=rate.limit_denominator(_MAX_DENOMINATOR) or rate,
        frames=frames,
        duration=duration,
        rotation=90 * quarters,
        pixel_aspect=1 / aspect if quarters % 2 else aspect,
        has_audio=has_audio,
    )


def probed(source: VideoInfo | str | os.PathLike[str]) -> VideoInfo:
    """Return `source` if it is a `VideoInfo`, else probe the file at that path. Raises `MediaError`."""
    return source if isinstance(source, VideoInfo) else probe(source)


def _probe_image(path: str | os.PathLike[str], image: images.ImageFile) -> VideoInfo:
    if not images.is_animated(image):
        height, width = images.decode_image(image, path).shape[:2]
        return VideoInfo(
            path=os.fspath(path), kind="image", width=width, height=height, fps=IMAGE_FPS, frames=1
        )
    durations = [frame.duration for frame in images.decode_webp(image, path)]
    if not durations:
        raise no_frame(path)
    fps = Fraction(1000 * len(durations), sum(durations) or 100 * len(durations))
    return VideoInfo(
        path=os.fspath(path),
        kind="webp",
        width=image.width,
        height=image.height,
        fps=fps.limit_denominator(_MAX_DENOMINATOR),
        frames=len(durations),
    )


def open_media(path: str | os.PathLike[str]) -> av.container.InputContainer:
    """Open a video or audio file for reading.

    Raises:
        MediaError: The file is missing, empty, truncated, or not a media file.

    """
    with _open_checked(path) as file:
        _check_riff(file, path)
    return _open_container(path)


def open_probed(info: VideoInfo) -> av.container.InputContainer:
    """Open a video that `probe` has checked. Raises `MediaError`."""
    return _open_container(info.path)


def _open_checked(path: str | os.PathLike[str]) -> BinaryIO:
    """Return a regular, non-empty file opened for reading."""
    try:
        status = os.stat(path)  # opening a pipe would wait for a writer
        if not stat.S_ISREG(status.st_mode):
            raise MediaError(f"cannot read {path}: it is a directory, pipe or device. Pass a media file.")
        if not status.st_size:
            raise MediaError(f"{path} is empty. Copy the file again.")
        return open(path, "rb")
    except OSError as error:
        raise MediaError(f"cannot read {path}: {error.strerror or error}.") from None


def _open_container(path: str | os.PathLike[str]) -> av.container.InputContainer:
    try:
        # "file:" keeps a colon in the name from being parsed as a protocol.
        container: av.container.InputContainer
        container = av.open("file:" + os.fspath(path), options=_LOCAL_FILES_ONLY, **_METADATA)
        return container
    except OSError as error:
        raise MediaError(f"cannot read {path}: {error.strerror or error}.") from None
    except av.error.FFmpegError:
        raise MediaError(
            f"{path} is not a media file, or its beginning or index is missing (truncated)."
        ) from None


def decode(container: Any, stream: Any, path: str | os.PathLike[str]) -> Iterator[Any]:
    """Yield the decoded frames of a stream; skipped damaged packets leave gaps in the time stamps.

    Raises:
        MediaError: The codec is unknown, or over 1000 packets are damaged.

    """
    if stream.codec_context is None:
        raise MediaError(f"the {stream.type} codec of {path} is unknown. Convert it to a common format.")
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
            if damaged > _MAX_DAMAGED_PACKETS:
                raise MediaError(
                    f"{path} is damaged: over {_MAX_DAMAGED_PACKETS} of its packets cannot be decoded."
                ) from None
            continue
        yield from frames
    if damaged:
        log.warning("%s: %d damaged packets skipped", path, damaged)


def video_stream(container: Any, path: str | os.PathLike[str]) -> Any:
    """Return the first video stream that is not cover art. Raises `MediaError` if there is none."""
    for stream in container.streams.video:
        if not is_cover_art(stream):
            return stream
    content = "audio but no video" if container.streams.audio else "neither video nor audio"
    raise MediaError(f"{path} has {content}. Pass a video or an image.")


def is_cover_art(stream: Any) -> bool:
    """Return whether a video stream is the cover image of an audio file."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def quarter_turns(frame: VideoFrame) -> int:
    """Return the number of counter-clockwise quarter turns that make a decoded frame upright."""
    return round(frame.rotation / 90) % 4


def no_frame(path: str | os.PathLike[str]) -> MediaError:
    """Return the error for a video without a frame that can be decoded."""
    return MediaError(f"no frame of {path} can be decoded: damaged or truncated. Check it in a player.")


def check_complete(path: str | os.PathLike[str], kind: str, seconds: float, stated: float | None) -> None:
    """Raise `MediaError` if far fewer `seconds` of a stream were decoded than its container states."""
    if stated is not None and seconds < 0.9 * stated and stated - seconds > 0.5:
        raise MediaError(
            f"{path} is truncated: its {kind} ends at {seconds:.1f} s of {stated:.1f} s. Copy the file again."
        )


def stated_duration(container: Any, stream: Any) -> float | None:
    """Return the seconds of a stream as stated by the container; None if that is unreliable."""
    if container.format.name in _ESTIMATED_LENGTH or stream.time_base is None:
        return None
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    clock = re.fullmatch(r"(\d+):(\d\d):(\d\d\.?\d*)", stream.metadata.get("DURATION", ""))
    if clock is None:
        return None
    hours, minutes, seconds = map(float, clock.groups())  # Matroska: the end of the last packet
    return hours * 3600 + minutes * 60 + seconds - float((stream.start_time or 0) * stream.time_base)


def _check_riff(file: BinaryIO, path: str | os.PathLike[str]) -> None:
    """Raise `MediaError` if a WAV or AVI file is shorter than its header states; FFmpeg ignores that."""
    file.seek(0)
    head = file.read(8)
    size, stated = os.fstat(file.fileno()).st_size, int.from_bytes(head[4:8], "little") + 8
    unknown = stated == 8 or stated >= 0x7FFF0000  # the file was written to a pipe
    if head[:4] == b"RIFF" and not unknown and stated > size + _RIFF_TOLERANCE:
        raise MediaError(f"{path} is truncated: {size:,} bytes of {stated:,}. Copy the file again.")
