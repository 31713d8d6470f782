"""Write videos (H.264 and AAC) to a temporary file that is renamed when it is complete."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from wav2lip_npu import signals
from wav2lip_npu.errors import MediaError
from wav2lip_npu.media.audio_reader import AudioSource
from wav2lip_npu.media.audio_track import AudioTrack, Soundtrack
from wav2lip_npu.media.encoders import PRESETS as PRESETS
from wav2lip_npu.media.encoders import EncodeOptions as EncodeOptions
from wav2lip_npu.media.encoders import VideoEncoder, VideoFormat
from wav2lip_npu.media.source_errors import SourceError, from_source
from wav2lip_npu.media.yuv_image import YuvImage
from wav2lip_npu.storage.atomic import replacing
from wav2lip_npu.storage.outputs import InputPath, OutputPath, check_outputs

FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".avi": "avi"}
_TOO_LARGE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, kw_only=True)
class VideoTags:
    """Metadata of the output file."""

    comment: str = ""
    """Text of the `comment` metadata."""
    pixel_aspect: Fraction = Fraction(1)
    """Width of a pixel divided by its height."""
    source: str = "the video"
    """Name of the source in errors."""


def check_target(out: str | os.PathLike[str], inputs: Iterable[InputPath] = ()) -> None:
    """Check that a video can be written to `out` and that it is not an input. Raises `MediaError`."""
    check_format(out)
    check_outputs([video_output(out)], inputs)


def check_format(out: str | os.PathLike[str]) -> None:
    """Raise `MediaError` if the suffix of `out` is not that of a video format."""
    if not os.fspath(out):
        raise MediaError("--outfile is empty. Pass a path.")
    if Path(out).suffix.lower() not in FORMATS:
        raise MediaError(f"cannot write {out}: unknown video format. Use one of {', '.join(FORMATS)}.")


def video_output(
    out: str | os.PathLike[str], name: str = "--outfile", label: str | None = None
) -> OutputPath:
    """Return an output video as an item for `check_outputs`."""
    return OutputPath(name, out, error=MediaError, label=label)


@signals.deferred()
def write_video(
    images: Iterable[YuvImage],
    out: str | os.PathLike[str],
    *,
    fps: Fraction,
    audio: Soundtrack | AudioSource | None = None,
    options: EncodeOptions = EncodeOptions(),
    tags: VideoTags = VideoTags(),
) -> int:
    """Encode images and an audio track, or a part of it, and return the number of images.

    Sample rate and channels of the audio are kept. `out` is replaced only when the whole video is written;
    an exception leaves it unchanged.

    Raises:
        MediaError: `out` cannot be written, `audio` cannot be read, or there is no image.

    """
    check_target(out)
    target = Path(out)
    form = FORMATS[target.suffix.lower()]
    if audio is not None and not isinstance(audio, Soundtrack):
        audio = Soundtrack(source=audio)
    try:
        with replacing(target) as part, _open_output(part, form) as container:
            container.metadata["comment"] = tags.comment
            return _encode(from_source(images), container, fps, audio, options, tags)
    except SourceError as error:
        assert error.__cause__ is not None
        raise error.__cause__ from None
    except OSError as error:
        if error.errno in _TOO_LARGE:
            raise MediaError(
                f"cannot write {target}: {error.strerror}. Free space or pass another --outfile."
            ) from None
        raise MediaError(f"cannot write {target}: {error.strerror or error}.") from error
    except av.error.FFmpegError as error:
        way_out = "" if options.encoder == "x264" else " Pass --encoder x264."
        raise MediaError(f"cannot write {target}: {error.strerror or error}.{way_out}") from error


def _open_output(part: Path, form: str) -> av.container.OutputContainer:
    index_first = {"movflags": "+faststart"} if form in ("mp4", "mov") else {}
    return av.open("file:" + os.fspath(part), "w", format=form, container_options=index_first)


def _encode(
    images: Iterable[YuvImage],
    container: av.container.OutputContainer,
    fps: Fraction,
    audio: Soundtrack | None,
    options: EncodeOptions,
    tags: VideoTags,
) -> int:
    video: VideoEncoder | None = None
    track = None
    count = 0
    with contextlib.ExitStack() as stack:
        for count, yuv in enumerate(images, start=1):
            signals.check()
            if video is None:
                video = _encoder(container, yuv, fps, options, tags)
                if audio is not None:
                    track = stack.enter_context(contextlib.closing(AudioTrack(container, audio)))
            frame = frame_of(yuv)
            frame.pts = count - 1
            frame.time_base = 1 / fps
            video.write(frame)
            if track is not None:
                track.write_until(count / fps)
        if video is None:
            raise MediaError("the source has no frames to write. Check the face video in a player.")
        video.write(None)
        if track is not None:
            track.finish(count / fps, 1 / fps)
    return count


def _encoder(
    container: Any, first: YuvImage, fps: Fraction, options: EncodeOptions, tags: VideoTags
) -> VideoEncoder:
    try:
        return VideoEncoder(container, VideoFormat(first, fps, tags.pixel_aspect), options)
    except av.error.FFmpegError as error:
        raise MediaError(
            f"H.264 cannot encode {tags.source}: {first.width}x{first.height} at {float(fps):g} fps "
            f"({error.strerror}). Pass --resize_factor, --crop or --fps."
        ) from error


def frame_of(yuv: YuvImage) -> av.VideoFrame:
    """Return an image as a frame for an encoder."""
    frame = av.VideoFrame(yuv.width, yuv.height, "yuv420p")
    target: Any
    for target, source in zip(frame.planes, (yuv.y, yuv.u, yuv.v), strict=True):
        lines = np.frombuffer(target, np.uint8).reshape(-1, target.line_size)
        lines[: source.shape[0], : source.shape[1]] = source
    return frame
