"""One video becomes a clip to train on: face crops at 25 fps, sound at 16 kHz and its mel, lined up.

A video that is of no use for training is dropped for one of `REASONS`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
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
from wav2lip_npu.device import HOST
from wav2lip_npu.errors import DeviceError, MediaError, NoAudioError, UsageError
from wav2lip_npu.faces.detection import Detection, Detector, overlap
from wav2lip_npu.faces.find_faces import MIN_SCORE, FaceOptions, find_faces
from wav2lip_npu.faces.optical_flow import Pose
from wav2lip_npu.media import video_reader
from wav2lip_npu.media.audio_reader import load_audio
from wav2lip_npu.media.container import VideoInfo, probe
from wav2lip_npu.media.yuv_image import Box, Image, YuvImage
from wav2lip_npu.mel import DEFAULT_MEL, TRAINING_FPS, log_mel
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
_LEAST_PX, _MOST_PX = 96, 288
"""Sides of a crop: the generator's input, and what it would be for the largest model in use."""
_JPEG_QUALITY = 95
_LOOK_EVERY = TRAINING_FPS
"""Frames between two looks at who else is there."""
_SECOND_FACE = 0.6
"""Side of another face, of that of the followed one, from which it is a second person."""
_SAME_FACE = 0.3
_versions = cache(versions)  # looking them up takes 10 ms
_VIEWS = 3
_HELD_BYTES = 96 << 20
"""Pictures kept until the size of the crops is known: two minutes of LRS2, 25 s of GRID. Of a longer
video they are decoded once more, which takes less than writing them somewhere would."""


@dataclass(frozen=True, kw_only=True)
class ClipOptions:
    """What is cut out of a video, and when it is dropped."""

    several_people: str = "drop"
    """Videos that mostly show a second face of at least 0.6 of the size: drop, or keep (the largest)."""
    min_face_px: int = 48
    """Drop videos whose face is smaller than this in the median, in pixels of the video."""
    min_face_share: float = 0.75
    """Drop videos with a face in less than this share of the frames."""

    def check(self) -> None:
        """Raise `UsageError` when a value is unknown or out of range."""
        if self.several_people not in ("drop", "keep"):
            raise UsageError(f"unknown --several_people {self.several_people!r}. Pass drop or keep.")
        if self.min_face_px < 1:
            raise UsageError(f"--min_face_px {self.min_face_px} is not at least 1.")
        if not 0 <= self.min_face_share <= 1:
            raise UsageError(f"--min_face_share {self.min_face_share:g} is out of range. Pass 0 to 1.")


class DroppedError(Exception):
    """No clip can be made of a video."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        assert reason in REASONS
        self.reason, self.detail = reason, detail


@dataclass
class _Seen:
    """What one pass through the pictures showed."""

    length: int = 0
    frames: list[int] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    held: list[YuvImage] | None = field(default_factory=list)
    """Pictures with a face, `None` when they are too many."""
    crowded: int = 0
    alone: int = 0


def make_clip(video: Video, root: Path, detector: Detector, options: ClipOptions) -> dict[str, Any]:
    """Write the clip of a video below `root` and return what its clip.json says.

    Raises `DroppedError`, or `DataError` when the clip cannot be written.
    """
    source, info = _examine(video)
    samples = _listen(video, info)
    seen = _watch(_frames(video, info, len(samples)), len(samples), detector, options)
    side = _judge(seen, options)
    face_px = min(max(round(side), _LEAST_PX), _MOST_PX)
    description = {
        "format": CLIP_FORMAT,
        "fps": TRAINING_FPS,
        "frames": seen.frames,
        "boxes": [[round(float(edge), 2) for edge in box] for box in seen.boxes],
        "cuts": seen.cuts,
        "face_px": face_px,
        "samples": len(samples),
        "source": source,
        "mel": asdict(DEFAULT_MEL),
        "options": asdict(options),
        "detector": detector.name,
        "versions": _versions(),
    }
    pictures = _pictures(video, info, seen, len(samples))
    crops = ((number, _jpeg(planes.crop(box, face_px))) for number, box, planes in pictures)
    mel = log_mel(samples / np.float32(32768))
    write_clip(root / video.clip, description, crops, samples, mel)
    return description


def source_of(video: Video) -> dict[str, int] | None:
    """Size and time of change of the file; `None` when it is not there."""
    try:
        status = os.stat(video.path)
    except OSError:
        return None
    return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns}


def _examine(video: Video) -> tuple[dict[str, Any], VideoInfo]:
    source = source_of(video)
    with _reading(video):
        info = probe(video.path)
    about = {"name": video.name, "width": info.width, "height": info.height, "fps": str(info.fps)}
    return {**(source or {}), **about}, info


def _listen(video: Video, info: VideoInfo) -> NDArray[np.int16]:
    """The sound as the clip will hold it."""
    if not info.has_audio:
        raise DroppedError("no sound", "there is no sound track")
    with _reading(video):
        wav = load_audio(video.path, DEFAULT_MEL.sample_rate).wav
    samples = np.clip(np.rint(wav * 32768), -32768, 32767).astype(np.int16)
    if not samples.any():
        raise DroppedError("no sound", "it is silent throughout")
    _long_enough(len(samples) // SAMPLES_PER_FRAME, "of sound")
    return samples


def _frames(video: Video, info: VideoInfo, samples: int) -> Iterator[video_reader.Frame]:
    """The frames at 25 fps that have their sound."""
    with _reading(video):
        yield from itertools.islice(
            video_reader.read_frames(info, fps=Fraction(TRAINING_FPS)), samples // SAMPLES_PER_FRAME
        )


def _watch(
    frames: Iterator[video_reader.Frame], samples: int, detector: Detector, options: ClipOptions
) -> _Seen:
    seen = _Seen()
    most_looks = -(-samples // (SAMPLES_PER_FRAME * _LOOK_EVERY))
    next_look, bytes_held = 0, 0
    for item in find_faces(frames, detector, FaceOptions(pads=(0, 0, 0, 0))):
        index, planes = item.frame.index, item.frame.yuv
        seen.length += 1
        if item.cut and index:
            seen.cuts.append(index)
        if item.box is None:
            continue
        box = np.round(item.box, 2)
        seen.frames.append(index)
        seen.boxes.append(box)
        # Once half of all looks showed nobody else, no majority can.
        if options.several_people == "drop" and index >= next_look and 2 * seen.alone < most_looks:
            next_look = index + _LOOK_EVERY
            if _second_face(planes, box, detector):
                seen.crowded += 1
            else:
                seen.alone += 1
        if seen.held is not None:
            bytes_held += planes.nbytes
            seen.held.append(planes)
            if bytes_held > _HELD_BYTES:
                seen.held = None
        del item, planes
    return seen


def _second_face(planes: YuvImage, box: Box, detector: Detector) -> bool:
    """Whether there is a face beside the one in the box, nearly as large."""
    side = Pose.of_box(box).side
    # As small a copy as shows the least second face at the size that the detector knows best.
    scale = min(
        2.0,
        detector.face_side / (_SECOND_FACE * side),
        detector.short_side / min(planes.width, planes.height),
    )
    copy = planes.scaled(round(planes.width * scale), round(planes.height * scale))
    others = (
        each.box / np.float32(scale)
        for each in detector([copy])[0]
        if each.score >= MIN_SCORE and overlap(each.box / np.float32(scale), box) < _SAME_FACE
    )
    return any(Pose.of_box(other).side >= _SECOND_FACE * side for other in others)


def _judge(seen: _Seen, options: ClipOptions) -> float:
    """The side of the face in the median, in pixels. Raises `DroppedError` when the clip is of no use."""
    _long_enough(seen.length, "of picture with sound")
    count = len(seen.frames)
    if not count:
        raise DroppedError("no face", f"none in {seen.length} frames")
    if seen.crowded > seen.alone:
        looks = seen.crowded + seen.alone
        raise DroppedError("several people", f"in {seen.crowded} of {looks} frames looked at")
    if count < options.min_face_share * seen.length:
        share = f"{100 * options.min_face_share:g} %"
        raise DroppedError("face gaps", f"a face in {count} of {seen.length} frames, {share} are wanted")
    side = float(np.median([Pose.of_box(box).side for box in seen.boxes]))
    if side < options.min_face_px:
        raise DroppedError("face too small", f"{side:.1f} px, {options.min_face_px} are wanted")
    _long_enough(count, "with a face")
    return side


def _long_enough(frames: int, what: str) -> None:
    if frames < MIN_FRAMES:
        raise DroppedError("too short", f"{frames} frames {what}, {MIN_FRAMES} are wanted")


def _pictures(
    video: Video, info: VideoInfo, seen: _Seen, samples: int
) -> Iterator[tuple[int, Box, YuvImage]]:
    """Number, box and picture of each frame with a face."""
    if seen.held is not None:
        yield from zip(seen.frames, seen.boxes, seen.held, strict=True)
        return
    boxes = dict(zip(seen.frames, seen.boxes, strict=True))
    for frame in _frames(video, info, samples):
        if frame.index in boxes:
            yield frame.index, boxes[frame.index], frame.yuv


def _jpeg(image: Image) -> bytes:
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return bytes(data)


@contextmanager
def _reading(video: Video) -> Iterator[None]:
    """Whatever a decoder makes of a broken file drops the video; there is no end to what it may raise."""
    try:
        yield
    except (MemoryError, DroppedError):
        raise
    except Exception as error:
        reason = "no sound" if isinstance(error, NoAudioError) else "unreadable"
        text = str(error) if isinstance(error, MediaError) else f"{type(error).__name__}: {error}"
        raise DroppedError(reason, text.replace(os.fspath(video.path), video.name)) from error


class LimitedDetector:
    """A detector for preprocessing: a few pictures a call, and fewer views of a face than for a dub.

    With 3 views instead of 7 the boxes of HOG are off by 0.4 % of their size instead of 0.2 %, and found
    in 0.6 of the time. Raises `DeviceError` for what goes wrong on an accelerator: no
    video is to blame for that.
    """

    def __init__(self, detector: Detector, batch_size: int, device: str) -> None:
        self.name, self.short_side, self.face_side = detector.name, detector.short_side, detector.face_side
        self.views = min(detector.views, _VIEWS)
        self._detector, self._batch_size, self._device = detector, batch_size, device

    def __call__(self, images: Sequence[Image]) -> list[list[Detection]]:
        """See `Detector`."""
        found: list[list[Detection]] = []
        try:
            for first in range(0, len(images), self._batch_size):
                found += self._detector(images[first : first + self._batch_size])
        except RuntimeError as error:
            if self._device == HOST:
                raise
            why = (str(error).strip().splitlines() or [""])[0]
            raise DeviceError(
                f"detector {self.name} failed on {self._device}: {why}. Run again with fewer --workers."
            ) from error
        return found
