"""Convert one video to a training clip: face crops at 25 fps, audio at 16 kHz and its mel.

A video that is unsuitable for training is dropped with one of `REASONS`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.data.clip_layout import CLIP_FORMAT, MIN_FRAMES
from wav2lip_npu.data.clip_writer import write_clip
from wav2lip_npu.errors import MediaError, NoAudioError
from wav2lip_npu.faces.detection import MIN_SCORE, Detector, overlap
from wav2lip_npu.faces.find_faces import FaceOptions, find_faces
from wav2lip_npu.faces.optical_flow import Pose
from wav2lip_npu.media import video_reader
from wav2lip_npu.media.container import VideoInfo, probe
from wav2lip_npu.media.yuv_image import Box, Image, YuvImage
from wav2lip_npu.mel import DEFAULT_MEL, TRAINING_FPS
from wav2lip_npu.preprocessing.clip_audio import ClipAudio, measure_clip_audio
from wav2lip_npu.preprocessing.clip_options import MIN_CROP_PX, ClipOptions
from wav2lip_npu.preprocessing.find_videos import Video
from wav2lip_npu.versions import versions

REASONS = (
    "unreadable",
    "no face",
    "face too small",
    "no sound",
    "too short",
    "several people",
    "face gaps",
)
SAMPLES_PER_FRAME = DEFAULT_MEL.sample_rate // TRAINING_FPS
_MAX_CROP_PX = 288
"""Largest side of a crop, unless `face_size` is larger."""
_JPEG_QUALITY = 95
_CHECK_EVERY = TRAINING_FPS
"""Frames between two checks for a second face."""
_SECOND_FACE = 0.6
"""Side, relative to the tracked face, from which another face counts as a second person."""
_SAME_FACE = 0.3
"""Overlap with the tracked box from which a detection is the same face."""
_versions = cache(versions)  # reading the versions takes 10 ms
_MAX_HELD_BYTES = 96 << 20
"""Bytes of frames kept in memory until the size of the crops is known: two minutes of LRS2, 25 s of GRID. A
longer video is decoded twice, which is faster than writing its frames to disk."""


class DroppedError(Exception):
    """A video is unsuitable for a clip."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        assert reason in REASONS
        self.reason, self.detail = reason, detail


@dataclass
class _FaceTrack:
    """The face in the frames of a video."""

    length: int = 0
    """Number of frames, with and without a face."""
    frames: list[int] = field(default_factory=list)
    """Indices of the frames with a face."""
    boxes: list[Box] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    images: list[YuvImage] | None = field(default_factory=list)
    """The frames with a face; None if they are too large to keep in memory."""
    checks_with_second_face: int = 0
    checks_without: int = 0


def make_clip(video: Video, root: Path, detector: Detector, options: ClipOptions) -> dict[str, Any]:
    """Write the clip of a video below `root` and return the content of its clip.json.

    Raises `DroppedError`, or `DataError` if the clip cannot be written.
    """
    source, info = _probe(video)
    audio = _measure_audio(video, info)
    track = _track_face(_read_frames(video, info, audio.samples), audio.samples, detector, options)
    side = _check_track(track, options)
    face_px = min(max(round(side), MIN_CROP_PX), max(_MAX_CROP_PX, options.face_size))
    description = {
        "format": CLIP_FORMAT,
        "fps": TRAINING_FPS,
        "frames": track.frames,
        "boxes": [[round(float(edge), 2) for edge in box] for box in track.boxes],
        "cuts": track.cuts,
        "face_px": face_px,
        "samples": audio.samples,
        "source": source,
        "mel": asdict(DEFAULT_MEL),
        "options": options.as_dict(),
        "detector": detector.name,
        "versions": _versions(),
    }
    frames = _frames_with_face(video, info, track, audio.samples)
    crops = ((index, _jpeg(image.crop(box, face_px))) for index, box, image in frames)
    write_clip(root / video.clip, description, crops, _audio_blocks(video, audio))
    return description


def source_of(video: Video) -> dict[str, int] | None:
    """Return size and modification time of the file; None if it does not exist."""
    try:
        status = os.stat(video.path)
    except OSError:
        return None
    return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns}


def _probe(video: Video) -> tuple[dict[str, Any], VideoInfo]:
    source = source_of(video)
    with _reading(video):
        info = probe(video.path)
    about = {"name": video.name, "width": info.width, "height": info.height, "fps": str(info.fps)}
    return {**(source or {}), **about}, info


def _measure_audio(video: Video, info: VideoInfo) -> ClipAudio:
    if not info.has_audio:
        raise DroppedError("no sound", "the video has no audio track")
    with _reading(video):
        audio = measure_clip_audio(video.path)
    if audio.is_silent:
        raise DroppedError("no sound", "the audio is silent throughout")
    _check_length(audio.samples // SAMPLES_PER_FRAME, "with audio")
    return audio


def _audio_blocks(video: Video, audio: ClipAudio) -> Iterator[NDArray[np.int16]]:
    with _reading(video):
        yield from audio.blocks()


def _read_frames(video: Video, info: VideoInfo, samples: int) -> Iterator[video_reader.Frame]:
    """Yield the frames at 25 fps up to the end of the audio."""
    with _reading(video):
        yield from itertools.islice(
            video_reader.read_frames(info, fps=Fraction(TRAINING_FPS)), samples // SAMPLES_PER_FRAME
        )


def _track_face(
    frames: Iterator[video_reader.Frame], samples: int, detector: Detector, options: ClipOptions
) -> _FaceTrack:
    track = _FaceTrack()
    max_checks = -(-samples // (SAMPLES_PER_FRAME * _CHECK_EVERY))
    next_check, held_bytes = 0, 0
    for item in find_faces(frames, detector, FaceOptions(pads=(0, 0, 0, 0))):
        index, image = item.frame.index, item.frame.yuv
        track.length += 1
        if item.cut and index:
            track.cuts.append(index)
        if item.box is None:
            continue
        box = np.round(item.box, 2)
        track.frames.append(index)
        track.boxes.append(box)
        # Once half of all checks show only one face, checks with a second face cannot be the majority.
        if options.several_people == "drop" and index >= next_check and 2 * track.checks_without < max_checks:
            next_check = index + _CHECK_EVERY
            if _has_second_face(image, box, detector):
                track.checks_with_second_face += 1
            else:
                track.checks_without += 1
        if track.images is not None:
            held_bytes += image.nbytes
            track.images.append(image)
            if held_bytes > _MAX_HELD_BYTES:
                track.images = None
        del item, image
    return track


def _has_second_face(image: YuvImage, box: Box, detector: Detector) -> bool:
    """Return whether the image has another face, nearly as large as the one in the box."""
    side = Pose.of_box(box).side
    # The smallest copy that shows a second face at the size at which the detector works best.
    scale = min(
        2.0,
        detector.face_side / (_SECOND_FACE * side),
        detector.short_side / min(image.width, image.height),
    )
    copy = image.scaled(round(image.width * scale), round(image.height * scale))
    others = (
        detection.box / np.float32(scale)
        for detection in detector([copy])[0]
        if detection.score >= MIN_SCORE and overlap(detection.box / np.float32(scale), box) < _SAME_FACE
    )
    return any(Pose.of_box(other).side >= _SECOND_FACE * side for other in others)


def _check_track(track: _FaceTrack, options: ClipOptions) -> float:
    """Return the median side of the face in pixels. Raises `DroppedError` if the video is unsuitable."""
    _check_length(track.length, "with video and audio")
    count = len(track.frames)
    if not count:
        raise DroppedError("no face", f"none in {track.length} frames")
    if track.checks_with_second_face > track.checks_without:
        checks = track.checks_with_second_face + track.checks_without
        raise DroppedError("several people", f"in {track.checks_with_second_face} of {checks} frames checked")
    if count < options.min_face_share * track.length:
        share = f"{100 * options.min_face_share:g} %"
        raise DroppedError("face gaps", f"a face in {count} of {track.length} frames, the minimum is {share}")
    side = float(np.median([Pose.of_box(box).side for box in track.boxes]))
    if side < options.smallest_face:
        raise DroppedError("face too small", f"{side:.1f} px, the minimum is {options.smallest_face}")
    _check_length(count, "with a face")
    return side


def _check_length(frames: int, what: str) -> None:
    if frames < MIN_FRAMES:
        raise DroppedError("too short", f"{frames} frames {what}, the minimum is {MIN_FRAMES}")


def _frames_with_face(
    video: Video, info: VideoInfo, track: _FaceTrack, samples: int
) -> Iterator[tuple[int, Box, YuvImage]]:
    """Yield index, box and image of each frame with a face."""
    if track.images is not None:
        yield from zip(track.frames, track.boxes, track.images, strict=True)
        return
    boxes = dict(zip(track.frames, track.boxes, strict=True))
    for frame in _read_frames(video, info, samples):
        if frame.index in boxes:
            yield frame.index, boxes[frame.index], frame.yuv


def _jpeg(image: Image) -> bytes:
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return bytes(data)


@contextmanager
def _reading(video: Video) -> Iterator[None]:
    """Drop the video for any error while reading it: damaged files make decoders raise many types."""
    try:
        yield
    except (MemoryError, DroppedError):
        raise
    except Exception as error:
        reason = "no sound" if isinstance(error, NoAudioError) else "unreadable"
        text = str(error) if isinstance(error, MediaError) else f"{type(error).__name__}: {error}"
        raise DroppedError(reason, text.replace(os.fspath(video.path), video.name)) from error
