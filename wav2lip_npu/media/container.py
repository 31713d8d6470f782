"""Open, probe and check media files, for the video reader and the audio reader.

PyAV decodes with the FFmpeg libraries in its wheel. No other program is started, nothing is written to disk,
and a media file cannot make FFmpeg open another file or a network connection.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, BinaryIO, Literal

import av
from av.codec.hwaccel import HWAccel
from av.video.frame import VideoFrame

from wav2lip_npu.errors import MediaError
from wav2lip_npu.media import images
from wav2lip_npu.media.colour import unsupported_matrix
from wav2lip_npu.media.deinterlace import jpeg_order, stated_order
from wav2lip_npu.media.heif import read_grid
from wav2lip_npu.media.orientation import Orientation, orientation_of
from wav2lip_npu.media.streams import decode as decode
from wav2lip_npu.media.streams import is_cover_art as is_cover_art
from wav2lip_npu.media.streams import video_stream as video_stream
from wav2lip_npu.media.yuv_image import has_alpha
from wav2lip_npu.options import path_text

log = logging.getLogger(__name__)

IMAGE_FPS = Fraction(25)
LONGEST_GAP_S = 600
"""Seconds. A longer gap between time stamps is a clock jump, not a pause."""
_MAX_DENOMINATOR = 1001
"""Denominator of the broadcast frame rates, such as 30000/1001."""
_ESTIMATED_LENGTH = {"mp3", "aac", "mpeg", "mpegts"}
"""Formats whose length FFmpeg estimates from the bit rate."""
_HAS_ALPHA = "%s has an alpha channel: transparent pixels become white"
_RIFF_TOLERANCE = 64
"""Bytes. Some writers count the header twice."""
_HEIF_BRANDS = {"avif", "avis", "heic", "heix", "heim", "heis", "hevc", "hevx", "mif1", "miaf", "msf1"}
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
    kind: Literal["image", "still", "webp", "video"]
    """`image` is a still image that Pillow decodes, `still` one that FFmpeg decodes, such as HEIC, `webp` an
    animated WebP, which FFmpeg cannot decode."""
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
    mirrored: bool = False
    """Whether the frame is mirrored left to right before the rotation."""
    interlaced: bool = False
    """Whether the first frame consists of two fields, which are merged on reading."""
    field_order: str | None = None
    """`tff` (top field first) or `bff` if the file states that all frames are interlaced."""
    pixel_aspect: Fraction = Fraction(1)
    """Width of a pixel divided by its height."""
    has_audio: bool = False
    hwaccel: str | None = None
    """Hardware that decodes the video, by FFmpeg's name; None: the CPU."""

    @property
    def is_image(self) -> bool:
        """Whether the file is a still image."""
        return self.kind in ("image", "still")


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
    return _probe_video(path)


def probed(source: VideoInfo | str | os.PathLike[str]) -> VideoInfo:
    """Return `source` if it is a `VideoInfo`, else probe the file at that path. Raises `MediaError`."""
    return source if isinstance(source, VideoInfo) else probe(path_text(source, "the face video"))


def _probe_video(path: str | os.PathLike[str]) -> VideoInfo:
    with _open_container(path) as container:
        stream = video_stream(container, path)
        rate = Fraction(stream.average_rate or stream.guessed_rate or stream.base_rate or IMAGE_FPS)
        aspect = Fraction(stream.sample_aspect_ratio or 1)
        frames, has_audio = stream.frames or None, bool(container.streams.audio)
        duration = stated_duration(container, stream)
        is_still = _is_still(container, stream)
        order = stated_order(stream)  # before decoding: PyAV 19 crashes after failing to open a decoder
        is_jpeg = stream.codec_context is not None and stream.codec_context.name == "mjpeg"
        first = next(decode(container, stream, path), None)
        is_heif = container.metadata.get("major_brand") in _HEIF_BRANDS
    if first is None:
        raise no_frame(path)
    if matrix := unsupported_matrix(first):
        raise MediaError(
            f"{path} uses the colour matrix {matrix}, which is not supported. Convert it to BT.709."
        )
    if is_jpeg and order is None:
        order = _order_of_jpegs(path, first.height)
    orientation, size = orientation_of(first), (first.width, first.height)
    grid = read_grid(path) if is_heif else None
    if grid is not None:
        is_still, orientation, size = True, grid.orientation, (grid.width, grid.height)
    interlaced = not is_still and (first.interlaced_frame or order is not None)
    _log_changes(path, first, orientation, interlaced)
    is_turned = orientation.quarters % 2
    width, height = size[::-1] if is_turned else size
    return VideoInfo(
        path=os.fspath(path),
        kind="still" if is_still else "video",
        width=width,
        height=height,
        fps=IMAGE_FPS if is_still else rate.limit_denominator(_MAX_DENOMINATOR) or rate,
        frames=1 if is_still else frames,
        duration=None if is_still else duration,
        rotation=90 * orientation.quarters,
        mirrored=orientation.mirrored,
        interlaced=interlaced,
        field_order=order,
        pixel_aspect=1 / aspect if is_turned else aspect,
        has_audio=has_audio,
    )


def _order_of_jpegs(path: str | os.PathLike[str], height: int) -> str | None:
    with _open_container(path) as container:
        packet = next(container.demux(video_stream(container, path)), None)
        return None if packet is None else jpeg_order(bytes(packet), height)


def _is_still(container: Any, stream: Any) -> bool:
    """Return whether a stream is in an image format, or the only frame of a HEIF or AVIF file."""
    is_heif = container.metadata.get("major_brand") in _HEIF_BRANDS
    return container.format.name.endswith("_pipe") or (is_heif and stream.frames == 1)


def _log_changes(
    path: str | os.PathLike[str], frame: VideoFrame, orientation: Orientation, interlaced: bool
) -> None:
    """Log the changes that `read_frames` makes to the decoded frames of a video."""
    if has_alpha(frame):
        log.info(_HAS_ALPHA, path)
    if interlaced:
        log.info(
            "%s is interlaced: it is deinterlaced; the output is progressive at the same frame rate", path
        )
    if orientation.is_tilted:
        log.warning(
            "%s: %.0f degrees of its rotation are ignored; only quarter turns are applied",
            path,
            orientation.tilt,
        )


def _probe_image(path: str | os.PathLike[str], image: images.ImageFile) -> VideoInfo:
    if image.has_transparency_data:
        log.info(_HAS_ALPHA, path)
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
    """Open a video that `probe` has checked, for decoding on its hardware. Raises `MediaError`."""
    return _open_container(info.path, info.hwaccel)


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
        raise MediaError(f"cannot read {path}: {error.strerror or error}. Check its path.") from None


def _open_container(path: str | os.PathLike[str], hwaccel: str | None = None) -> av.container.InputContainer:
    try:
        # A stream, or part of one, that the hardware cannot decode is decoded by the CPU.
        device = None if hwaccel is None else HWAccel(hwaccel, allow_software_fallback=True)
        # "file:" keeps a colon in the name from being parsed as a protocol.
        container: av.container.InputContainer
        container = av.open("file:" + os.fspath(path), options=_LOCAL_FILES_ONLY, hwaccel=device, **_METADATA)
        return container
    except OSError as error:
        raise MediaError(f"cannot read {path}: {error.strerror or error}.") from None
    except av.error.FFmpegError:
        raise MediaError(
            f"{path} is not a media file, or its beginning or index is missing (truncated)."
        ) from None


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
