"""What a client looks at before it starts a job: the faces at a time, one dubbed frame, the audio.

Runs in the process of `interactive`.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.batch.jobs import Job
from wav2lip_npu.batch.worker import ModelHolder
from wav2lip_npu.devices import device
from wav2lip_npu.dubbing.dialogue import Dialogue
from wav2lip_npu.dubbing.dialogue_files import heard
from wav2lip_npu.dubbing.extent import Extent
from wav2lip_npu.dubbing.mel_stream import MelStream
from wav2lip_npu.dubbing.options import DubOptions
from wav2lip_npu.dubbing.outputs import Output
from wav2lip_npu.dubbing.pauses import long_pauses
from wav2lip_npu.dubbing.pipeline import dub
from wav2lip_npu.dubbing.selection import FaceLimits
from wav2lip_npu.dubbing.spans import shifted_spans
from wav2lip_npu.dubbing.speakers import dub_dialogue
from wav2lip_npu.dubbing.voices import measure_voices
from wav2lip_npu.errors import UsageError, Wav2LipError
from wav2lip_npu.faces.detection import Detection, Detector, search_frames
from wav2lip_npu.faces.detectors import load_detector
from wav2lip_npu.faces.find_faces import SPEAKING, FaceOptions, rank
from wav2lip_npu.faces.head_pose import head_pose
from wav2lip_npu.media.audio_reader import AudioInfo, Samples, measure_audio, read_mono
from wav2lip_npu.media.container import IMAGE_FPS, VideoInfo, probe
from wav2lip_npu.media.section import copy_audio, copy_video
from wav2lip_npu.media.video_reader import frame_at, read_frames
from wav2lip_npu.media.yuv_image import YuvImage
from wav2lip_npu.mel import DEFAULT_MEL
from wav2lip_npu.serve.engine_options import EngineOptions
from wav2lip_npu.serve.jobs import weights_of
from wav2lip_npu.serve.store import OUTPUT

_PICTURE_SIDE = 1280
"""Longer side of a picture of faces, in pixels."""
_QUALITY = 90
_LEAD_S = 0.6
"""Seconds that are dubbed before the frame of a preview: smoothing and damping depend on earlier frames."""
_LATE_S, _TAIL_S = 20.0, 20.0
"""Time of a preview from which on it is made from copies of these sections, which end so much later."""
_MAX_POINTS = 20_000
_PEAK_SAMPLES = DEFAULT_MEL.sample_rate // 200


class Looks:
    """What the process of `Interactive` answers. Times are in seconds.

    Args:
        options: Options of the service.
        name: Name of the process, and of the folder for its temporary files.

    """

    def __init__(self, options: EngineOptions, name: str) -> None:
        self._checkpoints, self._devices = options.checkpoints, options.devices
        self._folder = Path(options.folder) / "previews" / name
        shutil.rmtree(self._folder, ignore_errors=True)  # of a process that was killed
        self._folder.mkdir(parents=True, exist_ok=True)

    @functools.cached_property
    def _device(self) -> str:
        first = self._devices[0].split(",")[0]
        return str(device.resolve("auto" if first == "all" else first))

    @functools.cached_property
    def _detector(self) -> Detector:
        return load_detector("auto", self._device)

    @functools.cached_property
    def _models(self) -> ModelHolder:
        return ModelHolder(self._device)

    def prepare(self) -> None:
        """Load the detector. `faces` raises its errors."""
        with contextlib.suppress(Wav2LipError):
            _ = self._detector

    def faces(self, path: str, seconds: float) -> dict[str, Any]:
        """Return the faces at a time, the largest first, in the form of `POST /v1/faces`."""
        info = probe(path)
        yuv = frame_at(info, _checked_time(seconds))
        found = rank(search_frames([yuv], self._detector)[0], FaceOptions(), yuv.width, yuv.height)
        return {
            "object": "faces",
            "time": seconds,
            "width": yuv.width,
            "height": yuv.height,
            "seconds": None if info.is_image else _seconds(info),
            "fps": None if info.is_image else float(info.fps),
            "faces": [_face(detection, FaceLimits()) for detection in found],
            "picture": base64.b64encode(_jpeg(yuv, _PICTURE_SIDE)).decode("ascii"),
        }

    def preview(
        self, face: str, audio: str | Dialogue, model: str, options: Mapping[str, Any], seconds: float
    ) -> tuple[bytes, float]:
        """Return one frame of a video as JPEG, and its time; after the end, the last one.

        The frames before it are dubbed, too, into a temporary file: this frame is the one of the video, apart
        from the first boxes of the face, which a dub from the beginning smooths over other frames. Of several
        speakers, sides are those at this time.
        """
        weights = weights_of(model, self._checkpoints)
        heard_file = audio if isinstance(audio, str) else heard(audio)
        job = Job(face=face, audio=heard_file, outfile="", checkpoint_path=weights, **options)
        info = probe(face)
        fps = job.dub.output_fps(info)
        if isinstance(audio, str):
            sound = measure_audio(audio, job.dub.audio_track)
        else:
            sound = measure_voices(audio).mix
        extent = Extent.of(job.dub, info, sound.duration, heard_file)
        last = min(int(_checked_time(seconds) * fps), extent.expected - 1)
        first = max(0, last - round(_LEAD_S * fps))
        start, duration = job.dub.start + float(first / fps), float((last - first + 1) / fps)
        options_of_part = replace(job.dub, start=start, duration=duration, check=False, min_confidence=None)
        with tempfile.TemporaryDirectory(dir=self._folder) as place:
            output = os.path.join(place, OUTPUT)
            part = _Part(info, heard_file, options_of_part)
            if start > _LATE_S and isinstance(audio, str) and job.dub.faces.face_select != SPEAKING:
                part = _late_part(part, sound, Path(place))
            if isinstance(audio, str):
                dub(part.info, part.audio, output, models=lambda: self._models(job), options=part.options)
            else:
                written = Output(heard_file, output)
                dub_dialogue(info, written, audio, models=lambda: self._models(job), options=options_of_part)
            *_, (number, yuv) = ((frame.index, frame.yuv) for frame in read_frames(output))
        return _jpeg(yuv, max(yuv.width, yuv.height)), float((first + number) / fps)

    def envelope(self, path: str, points: int) -> dict[str, Any]:
        """Return the loudness and the pauses of audio, in the form of `GET /v1/files/{id}/envelope`."""
        if not 1 <= points <= _MAX_POINTS:
            raise UsageError(f"points {points} is out of range. Pass 1 to {_MAX_POINTS}.")
        audio = measure_audio(path)
        with ThreadPoolExecutor(1) as pool:
            stream = MelStream(audio, IMAGE_FPS, 0.0, pool, pause_threshold=DubOptions().rest_threshold)
            peaks = np.concatenate(list(_peaks(read_mono(audio))))
            pauses = long_pauses(stream.pauses())
            stream.close()
        duration = float(audio.duration)
        spans = [[min(edge / DEFAULT_MEL.columns_per_second, duration) for edge in pause] for pause in pauses]
        return {
            "object": "envelope",
            "seconds": round(duration, 3),
            "points": [round(float(peak), 4) for peak in _largest(peaks, points)],
            "pauses": [[round(edge, 3) for edge in span] for span in spans],
        }


@dataclass(frozen=True)
class _Part:
    """The files and options of a preview."""

    info: VideoInfo
    audio: str
    options: DubOptions


def _late_part(part: _Part, sound: AudioInfo, place: Path) -> _Part:
    """Return copies of the files from shortly before the preview on, so that it need not wait for the rest.

    Pauses are then found relative to the loud parts of these seconds. If the video cannot be cut, or is
    shorter than the audio and played again, the files themselves are returned.
    """
    options = part.options
    end = options.start + (options.duration or 0)
    video = place / "face.mkv"
    offset = copy_video(part.info, video, options.start, end + _TAIL_S)
    if offset is None or (part.info.duration or 0) < end:
        return part
    audio = place / "audio.wav"
    copy_audio(sound, audio, float(offset), end + _TAIL_S)
    skip = shifted_spans(options.skip, offset)
    start = float(Fraction(options.start) - offset)
    return _Part(probe(video), os.fspath(audio), replace(options, start=start, skip=skip, audio_track=None))


def _face(detection: Detection, limits: FaceLimits) -> dict[str, Any]:
    left, top, right, bottom = (round(float(side), 1) for side in detection.box)
    pose = None if detection.landmarks is None else head_pose(detection.landmarks)
    reason = None
    if pose is not None and limits.excess(pose) > 0:
        reason = "turned"
    elif pose is not None and right - left < limits.min_face:
        reason = "small"
    angles = ("yaw", "pitch", "roll")
    return {
        "box": [left, top, right, bottom],
        "confidence": round(detection.score, 3),
        "pose": None if pose is None else {name: round(getattr(pose, name), 1) for name in angles},
        "face_select": f"{round((left + right) / 2)},{round((top + bottom) / 2)}",
        "reason": reason,
    }


def _peaks(blocks: Iterable[Samples]) -> Iterator[NDArray[np.float32]]:
    """Yield the largest amplitude in each step of 5 ms."""
    rest = np.zeros(0, np.float32)
    for block in blocks:
        rest = np.concatenate([rest, np.abs(block)])
        whole = len(rest) // _PEAK_SAMPLES * _PEAK_SAMPLES
        yield rest[:whole].reshape(-1, _PEAK_SAMPLES).max(axis=1)
        rest = rest[whole:]
    yield rest.max(keepdims=True, initial=0)


def _largest(peaks: NDArray[np.float32], points: int) -> NDArray[np.float32]:
    """Return the largest peak in each of `points` equal spans, at most 1."""
    edges = np.linspace(0, len(peaks), points + 1)
    firsts = np.minimum(edges[:-1].astype(int), len(peaks) - 1)
    lasts = np.maximum(np.ceil(edges[1:]).astype(int), firsts + 1)
    return np.array([min(1.0, peaks[a:b].max()) for a, b in zip(firsts, lasts, strict=True)], np.float32)


def _checked_time(seconds: float) -> float:
    if not 0 <= seconds < math.inf:
        raise UsageError(f"time {seconds:g} is out of range. Pass at least 0 seconds.")
    return seconds


def _seconds(info: VideoInfo) -> float | None:
    seconds = info.duration or (None if info.frames is None else float(info.frames / info.fps))
    return None if seconds is None else round(seconds, 3)


def _jpeg(yuv: YuvImage, side: int) -> bytes:
    scale = min(1.0, side / max(yuv.width, yuv.height))
    image = yuv.scaled(max(1, round(yuv.width * scale)), max(1, round(yuv.height * scale)))
    return bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1])
