"""Clip: one preprocessed folder with face crops, audio and mel of a video.

Folders written by the original's preprocess.py (JPEGs of any size, a WAV file of any rate) are clips too;
their mel is computed once and saved next to the audio. Files in a folder are not trusted: a damaged or
malicious file raises `ClipError`, or is replaced if possible.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.data.clip_files import read_face, read_json
from wav2lip_npu.data.clip_layout import (
    AUDIO_FILE,
    CLIP_FILE,
    CLIP_FORMAT,
    FACE_SIZE,
    MEL_FILE,
    MIN_FRAMES,
    WINDOW,
)
from wav2lip_npu.errors import DataError, MediaError
from wav2lip_npu.media.audio_reader import read_audio, read_mono
from wav2lip_npu.mel import DEFAULT_MEL, TRAINING_FPS, Mel, columns_of, log_mel, mel_blocks
from wav2lip_npu.storage import npy
from wav2lip_npu.storage.atomic import replacing

log = logging.getLogger(__name__)

_MAX_FRAME = 10**8
_MEL_SETTINGS = asdict(DEFAULT_MEL)
_MAX_COLUMNS = 80 * 3600 * 48
"""Limit of mel columns, two days."""

Indices = NDArray[np.int64]
"""int64 [N], frame numbers or positions in a list of them"""
Faces = NDArray[np.uint8]
"""uint8 [N, S, S, 3], BGR"""


class ClipError(DataError):
    """A clip folder that cannot be used, or a file in it that cannot be read."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        """Short form of the message, for counting."""


@dataclass(frozen=True, eq=False)
class Clip:
    """One preprocessed folder. Faces and mel are read on demand."""

    name: str
    """Folder relative to the data root."""
    folder: Path
    frames: Indices
    """Numbers of the frames with a face, ascending."""
    cuts: Indices
    """First frames of new shots."""
    columns: int
    """Mel columns."""
    audio_offset: int = 0
    """Frames by which the audio file is late. `frames` and `cuts` are numbered relative to the audio: frame n
    is `{n - audio_offset}.jpg`, and frames before the start of the audio have negative numbers."""
    held_mel: Mel | None = field(default=None, repr=False)
    """Mel of a clip whose folder is not writable."""
    _windows: dict[int, Indices] = field(default_factory=dict, init=False, repr=False)
    """Results of `windows` by shift. Two threads may compute the same one; the results are equal."""

    @property
    def seconds(self) -> float:
        """Length of the audio."""
        return self.columns / DEFAULT_MEL.columns_per_second

    @cached_property
    def shots(self) -> Indices:
        """Number of the shot that each frame belongs to, [N]."""
        shots: Indices = np.searchsorted(self.cuts, self.frames, side="right")
        return shots

    def windows(self, shift: int = 0) -> Indices:
        """Return the positions in `frames` at which windows start.

        A window is five consecutive frames of one shot with 200 ms of audio. With a `shift`, each of its
        frames also has the 200 ms of audio that begin `shift` frames later.
        """
        if shift not in self._windows:
            self._windows[shift] = self._find_windows(shift)
            self._windows[shift].flags.writeable = False
        return self._windows[shift]

    def _find_windows(self, shift: int) -> Indices:
        first = np.arange(max(0, len(self.frames) - WINDOW + 1))
        starts = self.frames[first]
        consecutive = self.frames[first + WINDOW - 1] - starts == WINDOW - 1
        one_shot = self.shots[first] == self.shots[first + WINDOW - 1]
        earliest = starts + min(shift, 0)
        latest = starts if shift == 0 else np.maximum(starts, starts + WINDOW - 1 + shift)
        end = first_column(latest) + DEFAULT_MEL.columns_per_window
        windows: Indices = first[consecutive & one_shot & (earliest >= 0) & (end <= self.columns)]
        return windows

    def face(self, frame: int, size: int = FACE_SIZE) -> Faces:
        """Return the face [S, S, 3] of a frame. Raises `ClipError` if its JPEG is unreadable."""
        image = self.crop(frame)
        if image.shape[:2] != (size, size):
            method = cv2.INTER_AREA if min(image.shape[:2]) > size else cv2.INTER_LINEAR
            image = np.asarray(cv2.resize(image, (size, size), interpolation=method), np.uint8)
        return image

    def crop(self, frame: int) -> Faces:
        """Return the face of a frame as it is stored, [H, W, 3]. Raises `ClipError`."""
        path = self.folder / f"{frame - self.audio_offset}.jpg"
        try:
            return read_face(path)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ClipError(
                "unreadable picture", f"cannot read {path}: {reason}. Preprocess its video again."
            ) from None

    def mel(self) -> Mel:
        """Return the whole mel; a long one is memory-mapped. Raises `ClipError`."""
        if self.held_mel is not None:
            return self.held_mel
        mel = _read_mel(self.folder)
        if mel.shape[1] != self.columns:
            path = self.folder / MEL_FILE
            raise ClipError("other mel", f"{path} has changed during the run. Run the command again.")
        return mel

    def audio(self) -> NDArray[np.float32]:
        """Return the whole audio, mono float32 [samples] at 16 kHz. Raises `MediaError`."""
        return read_audio(self.folder / AUDIO_FILE)


def read_clip(name: str, folder: Path, audio_offset: int = 0) -> Clip:
    """Read the description of a clip folder. Raises `ClipError` if it cannot be used for training."""
    content = read_description(folder)
    if content is None:
        frames, cuts = _numbered_jpegs(folder), []
    else:
        frames, cuts = content["frames"], content["cuts"]
    if len(frames) < MIN_FRAMES:
        raise ClipError(
            "too few pictures", f"{folder} has {len(frames)} frames, at least {MIN_FRAMES} are needed."
        )
    columns, held_mel = _columns(folder)
    shifted, shots = (np.array(numbers, np.int64) + audio_offset for numbers in (frames, cuts))
    return Clip(name, folder, shifted, shots, columns, audio_offset, held_mel)


def read_description(folder: Path) -> dict[str, Any] | None:
    """Return the checked content of clip.json, or `None` for a folder of the original's preprocess.py.

    Frames and cuts are validated; other entries are not. Raises `ClipError`.
    """
    path = folder / CLIP_FILE
    try:
        content = read_json(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        why = _reason(error)
        raise ClipError(why, f"cannot read {path}: {why}. Check --data_root.") from None
    except ValueError as error:
        raise ClipError("damaged", f"cannot read {path} ({error}). Preprocess its video again.") from None
    if not isinstance(content, dict) or content.get("format") != CLIP_FORMAT:
        raise ClipError("other format", f"{path} has an unknown format. Preprocess its video again.")
    if content.get("mel") != _MEL_SETTINGS:
        raise ClipError("other mel settings", f"{path} has other mel settings. Preprocess its video again.")
    for key in ("frames", "cuts"):
        if not _are_frame_numbers(content.get(key)):
            raise ClipError("damaged", f"{path} has no valid list of {key}. Preprocess its video again.")
    return content


def _are_frame_numbers(value: Any) -> bool:
    """Return whether a value is an ascending list of frame numbers."""
    return (
        isinstance(value, list)
        and all(type(number) is int and 0 <= number < _MAX_FRAME for number in value)
        and value == sorted(set(value))
    )


def _numbered_jpegs(folder: Path) -> list[int]:
    """Return the numbers n of the `{n}.jpg` in a folder, ascending."""
    try:
        names = os.listdir(folder)
    except OSError as error:
        why = _reason(error)
        raise ClipError(why, f"cannot read {folder}: {why}. Check --data_root.") from None
    matches = (re.fullmatch(r"(0|[1-9]\d{0,8})\.jpg", name, re.ASCII) for name in names)
    return sorted(int(match[1]) for match in matches if match)


def _reason(error: OSError) -> str:
    return (error.strerror or "unreadable").lower()


def _columns(folder: Path) -> tuple[int, Mel | None]:
    """Return the mel columns of a clip, and its mel if it cannot be saved. Raises `ClipError`."""
    path, audio = folder / MEL_FILE, folder / AUDIO_FILE
    missing = not os.path.exists(path)
    if not missing:
        try:
            return _read_mel(folder).shape[1], None
        except ClipError as error:
            damage = error
    if not os.path.exists(audio):
        raise ClipError("no sound", f"{audio} does not exist. Preprocess its video again.")
    try:
        if missing:
            return _save_mel(audio, path), None
    except OSError as error:
        log.debug("cannot write %s: %s", path, error)
    else:
        log.warning("%s Until then every run computes the mel from %s.", damage, AUDIO_FILE)
    with _mel_errors(audio):
        mel = log_mel(read_audio(audio))
    return mel.shape[1], mel


def _save_mel(audio: Path, path: Path) -> int:
    """Compute the mel of an audio file block by block, save it, and return its number of columns.

    Raises `OSError` if the mel cannot be written, and `ClipError` if the audio cannot be used.
    """
    with _mel_errors(audio):
        shape = DEFAULT_MEL.n_mels, columns_of(sum(map(len, read_mono(audio))))
        with replacing(path) as part:
            npy.write_columns(part, shape, mel_blocks(read_mono(audio)))
    return shape[1]


@contextmanager
def _mel_errors(audio: Path) -> Iterator[None]:
    try:
        yield
    except MediaError as error:
        raise ClipError("unreadable sound", str(error)) from None
    except ValueError as error:
        raise ClipError("too little sound", f"{audio}: {error}.") from None


def _read_mel(folder: Path) -> Mel:
    path = folder / MEL_FILE
    try:
        mel = npy.read(path)
        if (
            mel.dtype != np.float32
            or mel.ndim != 2
            or len(mel) != DEFAULT_MEL.n_mels
            or mel.shape[1] > _MAX_COLUMNS
        ):
            raise ValueError(f"{mel.dtype} {mel.shape}")
    except (OSError, ValueError) as error:
        raise ClipError("damaged mel", f"cannot read {path} ({error}). Delete it.") from None
    return mel


def first_column(frame: Any) -> Any:
    """Return the first mel column of frames at 25 fps: 16 columns per five frames, exactly."""
    return frame * int(DEFAULT_MEL.columns_per_second) // TRAINING_FPS


def mel_columns(mel: Mel, frame: int) -> Mel:
    """Return the mel window [80, 16] that begins with a frame at 25 fps."""
    start = first_column(frame)
    return mel[:, start : start + DEFAULT_MEL.columns_per_window]
