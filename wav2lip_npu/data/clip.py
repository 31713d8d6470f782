"""A clip on disk: the face crops, sound and mel of one video, as preprocessing leaves them.

A folder that the original's preprocess made (pictures of any size, a wav of any rate) is a clip too; its
mel is computed once and kept beside. What is in a folder is not trusted: a damaged or hostile file raises
`ClipError`, or is made anew where that is possible.
"""

from __future__ import annotations

import json
import logging
import os
import re
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

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
from wav2lip_npu.media.audio_reader import read_audio
from wav2lip_npu.mel import DEFAULT_MEL, TRAINING_FPS, Mel, log_mel
from wav2lip_npu.storage import npy
from wav2lip_npu.storage.atomic import replacing

log = logging.getLogger(__name__)

_MOST_PICTURES = 10**8
_MEL_SETTINGS = asdict(DEFAULT_MEL)
_JPEG_BEGIN, _JPEG_END = b"\xff\xd8", b"\xff\xd9"

Numbers = NDArray[np.int64]
Faces = NDArray[np.uint8]
"""uint8 [N, S, S, 3], BGR"""


class ClipError(DataError):
    """A folder that is no usable clip."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        """In a few words, for counting."""


@dataclass(frozen=True, eq=False)
class Clip:
    """One preprocessed folder; pictures and mel are read when asked for."""

    name: str
    """Folder relative to the data root."""
    folder: Path
    frames: Numbers
    """Numbers of the pictures that there are, ascending: those without a face are missing."""
    cuts: Numbers
    """Pictures that begin a new shot."""
    columns: int
    """Mel columns."""
    audio_offset: int = 0
    """Frames by which the sound of the file comes late. `frames` and `cuts` count in the time of the sound:
    `{n}.jpg` is picture n + audio_offset, and pictures before the sound have negative numbers."""

    @property
    def seconds(self) -> float:
        """Length of the sound."""
        return self.columns / DEFAULT_MEL.columns_per_second

    held_mel: Mel | None = field(default=None, repr=False)
    """The mel of a clip whose folder cannot keep it."""
    _windows: dict[int, Numbers] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def shots(self) -> Numbers:
        """Number of the shot that each picture is in."""
        shots: Numbers = np.searchsorted(self.cuts, self.frames, side="right")
        return shots

    def windows(self, shift: int = 0) -> Numbers:
        """Positions in `frames` where five consecutive pictures of one shot begin that have their sound.

        With a `shift` each of the five also has the 200 ms of sound that begin so many pictures later.
        """
        if shift not in self._windows:
            self._windows[shift] = self._find_windows(shift)
            self._windows[shift].flags.writeable = False
        return self._windows[shift]

    def _find_windows(self, shift: int) -> Numbers:
        first = np.arange(max(0, len(self.frames) - WINDOW + 1))
        starts = self.frames[first]
        whole = self.frames[first + WINDOW - 1] - starts == WINDOW - 1
        one_shot = self.shots[first] == self.shots[first + WINDOW - 1]
        earliest = starts + min(shift, 0)
        latest = starts if shift == 0 else np.maximum(starts, starts + WINDOW - 1 + shift)
        heard = (earliest >= 0) & (first_column(latest) + DEFAULT_MEL.columns_per_window <= self.columns)
        found: Numbers = first[whole & one_shot & heard]
        return found

    def face(self, number: int) -> Faces:
        """The face [S, S, 3] of picture `number`. Raises `ClipError` when it is unreadable."""
        path = self.folder / f"{number - self.audio_offset}.jpg"
        image = None
        try:
            content = np.fromfile(path, np.uint8)
            if _is_whole(content):
                image = cv2.imdecode(content, cv2.IMREAD_COLOR)
        except (OSError, cv2.error):  # OpenCV raises for an empty file
            pass
        if image is None:
            raise ClipError("unreadable picture", f"cannot read {path}. Preprocess its video again.")
        if image.shape[:2] != (FACE_SIZE, FACE_SIZE):
            how = cv2.INTER_AREA if min(image.shape[:2]) > FACE_SIZE else cv2.INTER_LINEAR
            image = cv2.resize(image, (FACE_SIZE, FACE_SIZE), interpolation=how)
        return np.asarray(image, np.uint8)

    def mel(self) -> Mel:
        """The whole mel; a long one is mapped, not read. Raises `ClipError`."""
        if self.held_mel is not None:
            return self.held_mel
        mel = _read_mel(self.folder)
        if mel.shape[1] != self.columns:
            raise ClipError("other mel", f"{self.folder / MEL_FILE} has changed. Start again.")
        return mel

    def audio(self) -> NDArray[np.float32]:
        """The whole sound at 16 kHz. Raises `MediaError`."""
        return read_audio(self.folder / AUDIO_FILE)


def _is_whole(content: NDArray[np.uint8]) -> bool:
    """Whether a file is no JPEG that was cut off: OpenCV would fill up its picture with grey."""
    return content[:2].tobytes() != _JPEG_BEGIN or _JPEG_END in content[-64:].tobytes()


def read_clip(name: str, folder: Path, audio_offset: int = 0) -> Clip:
    """What the folder of a clip holds, its sound being late by so many frames.

    Raises `ClipError` when it cannot be trained on.
    """
    content = _description(folder)
    if content is None:
        frames, cuts = _numbered_pictures(folder), []
    else:
        frames, cuts = content["frames"], content["cuts"]
    if len(frames) < MIN_FRAMES:
        raise ClipError(
            "too few pictures", f"{folder} holds {len(frames)} pictures, {MIN_FRAMES} are needed."
        )
    columns, held_mel = _columns(folder)
    numbers, shots = (np.array(each, np.int64) + audio_offset for each in (frames, cuts))
    return Clip(name, folder, numbers, shots, columns, audio_offset, held_mel)


def _description(folder: Path) -> dict[str, Any] | None:
    """What clip.json says, checked; None for a folder of the original's preprocess."""
    path = folder / CLIP_FILE
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        why = _reason(error)
        raise ClipError(why, f"cannot read {path}: {why}. Check --data_root.") from None
    except (ValueError, RecursionError) as error:
        raise ClipError("damaged", f"cannot read {path} ({error}). Preprocess its video again.") from None
    if not isinstance(content, dict) or content.get("format") != CLIP_FORMAT:
        raise ClipError("other format", f"{path} is of another version. Preprocess its video again.")
    if content.get("mel") != _MEL_SETTINGS:
        raise ClipError("other mel settings", f"{path} has other mel settings. Preprocess its video again.")
    for key in ("frames", "cuts"):
        if not _are_numbers(content.get(key)):
            raise ClipError("damaged", f"{path} lists no {key}. Preprocess its video again.")
    return content


def _are_numbers(found: Any) -> bool:
    """Whether it is an ascending list of numbers of pictures."""
    return (
        isinstance(found, list)
        and all(type(number) is int and 0 <= number < _MOST_PICTURES for number in found)
        and found == sorted(set(found))
    )


def _numbered_pictures(folder: Path) -> list[int]:
    """Numbers of the `{n}.jpg` in a folder."""
    try:
        names = os.listdir(folder)
    except OSError as error:
        why = _reason(error)
        raise ClipError(why, f"cannot read {folder}: {why}. Check --data_root.") from None
    found = (re.fullmatch(r"(0|[1-9]\d{0,8})\.jpg", name, re.ASCII) for name in names)
    return sorted(int(match[1]) for match in found if match)


def _reason(error: OSError) -> str:
    return (error.strerror or "unreadable").lower()


def _columns(folder: Path) -> tuple[int, Mel | None]:
    """Columns of the mel of a clip, and the mel itself if the folder cannot keep it. Raises `ClipError`."""
    path, sound = folder / MEL_FILE, folder / AUDIO_FILE
    missing = not path.exists()
    if not missing:
        try:
            return _read_mel(folder).shape[1], None
        except ClipError as error:
            damage = error
    if not sound.exists():
        raise ClipError("no sound", f"{sound} does not exist. Preprocess its video again.")
    try:
        mel = log_mel(read_audio(sound))
    except MediaError as error:
        raise ClipError("unreadable sound", str(error)) from None
    except ValueError as error:
        raise ClipError("too little sound", f"{sound}: {error}.") from None
    if not missing:
        log.warning("%s The mel is made of %s in each run.", damage, AUDIO_FILE)
        return mel.shape[1], mel
    try:
        with replacing(path) as part, part.open("wb") as file:
            np.save(file, mel)
    except OSError as error:
        log.debug("cannot write %s: %s", path, error)
        return mel.shape[1], mel
    return mel.shape[1], None


def _read_mel(folder: Path) -> Mel:
    path = folder / MEL_FILE
    try:
        mel = npy.read(path)
        if mel.dtype != np.float32 or mel.ndim != 2 or len(mel) != DEFAULT_MEL.n_mels:
            raise ValueError(f"{mel.dtype} {mel.shape}")
    except (OSError, ValueError) as error:
        raise ClipError("damaged mel", f"cannot read {path} ({error}). Delete it.") from None
    return mel


def first_column(frame: Any) -> Any:
    """First mel column of pictures at 25 fps, 16 for every five, exactly."""
    return frame * int(DEFAULT_MEL.columns_per_second) // TRAINING_FPS


def mel_columns(mel: Mel, frame: int) -> Mel:
    """The 200 ms of sound [80, 16] that begin with picture `frame`."""
    start = first_column(frame)
    return mel[:, start : start + DEFAULT_MEL.columns_per_window]
