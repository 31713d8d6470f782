"""One clip looked at: what can be told of it without a network, in a few milliseconds."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.data.clip import Clip
from wav2lip_npu.data.clip_layout import AUDIO_FILE, CLIP_FILE
from wav2lip_npu.errors import Wav2LipError
from wav2lip_npu.media.audio_reader import read_blocks
from wav2lip_npu.mel import DEFAULT_MEL, TRAINING_FPS, Mel

_LONGEST_LISTENED_S = 60
_LEVEL_BLOCK_S = 0.05
_FULL_SCALE = 0.999
_EVEN = 0.5
"""Span of a mel in which nothing happens."""
_AUDIBLE = -3.0
"""Mean of a mel column below which there is nothing but the noise of the recording."""
_ABOVE_FLOOR = 0.75
"""By how much, in units of the mel (12.5 dB), syllables stand above the quietest twentieth of a clip. Of
speech 40 to 90 % of the columns do, of noise, hum and single tones less than 2 %."""


@dataclass(frozen=True, kw_only=True)
class Looked:
    """Figures of one clip; `None` is what could not be told."""

    name: str
    held_out: bool
    """Whether it is for validation."""
    seconds: float
    pictures: int
    missing: int
    """Pictures without a face between the first and the last."""
    source_fps: float | None = None
    """Of the video that it was made of."""
    face_px: float | None = None
    """Median side of the face in the source, pixels."""
    level_db: float | None = None
    """Of the loudest twentieth of its sound, decibels below full scale."""
    clipped: float | None = None
    """Share of samples at full scale."""
    speech: float | None = None
    """Share of the sound in which syllables stand out."""
    sound: str | None = None
    """Equal for equal sound."""
    picture: str | None = None
    """Equal for equal pictures."""
    sound_offset: int = 0
    """Frames by which the file list says that the sound is late."""
    offset: int | None = None
    """Frames by which the expert finds the sound late besides that."""
    sure_offset: int | None = None
    """The same, or 0 where that may be chance."""
    confidence: float | None = None
    """How far the cosine at that offset stands above the median of all offsets, 0 to 1."""
    problem: str | None = None
    """What could not be read."""

    @property
    def speaker(self) -> str:
        """The folder that holds the clip: in LRS2 and its kind that of one speaker or programme."""
        return self.name.rpartition("/")[0]


def inspect(clip: Clip, held_out: bool) -> Looked:
    """Look at a clip. What cannot be read is told in `problem` and does not raise."""
    count, frames = len(clip.frames), clip.frames
    looked = Looked(
        name=clip.name,
        held_out=held_out,
        seconds=count / TRAINING_FPS,
        pictures=count,
        missing=int(frames[-1] - frames[0]) + 1 - count,
        sound_offset=clip.audio_offset,
    )
    found: dict[str, object] = {}
    try:
        sound, picture = fingerprints(clip)
        found |= {"sound": sound, "picture": picture, "speech": speech_share(clip.mel())}
        found |= _of_source(clip) | _of_sound(clip.folder / AUDIO_FILE)
    except (Wav2LipError, OSError, ValueError, cv2.error) as error:
        found["problem"] = str(error)
    return Looked(**vars(looked) | found)


def fingerprints(clip: Clip) -> tuple[str | None, str]:
    """Equal for clips of equal sound, and of equal pictures, as far as the middle of the clip tells.

    Silence has none. Raises `ClipError`, and `OSError` when a picture is gone.
    """
    mel = clip.mel()
    middle, half = mel.shape[1] // 2, int(DEFAULT_MEL.columns_per_second / 4)
    piece = np.ascontiguousarray(mel[:, max(0, middle - half) : middle + half])
    silent = float(np.ptp(piece)) < _EVEN
    sound = None if silent else _hash(piece.tobytes() + str(mel.shape[1]).encode())
    return sound, _hash(_middle_picture(clip).read_bytes())


def speech_share(mel: Mel) -> float:
    """Share of columns in which something as loud and as uneven as syllables is heard."""
    level = mel.mean(axis=0)
    floor = max(float(np.percentile(level, 5)) + _ABOVE_FLOOR, _AUDIBLE)
    return float((level > floor).mean())


def _middle_picture(clip: Clip) -> Path:
    return clip.folder / f"{int(clip.frames[len(clip.frames) // 2]) - clip.audio_offset}.jpg"


def _of_source(clip: Clip) -> dict[str, object]:
    """Rate and face size of the video; of a clip of the original's preprocess the size of its crops."""
    image = cv2.imdecode(np.fromfile(_middle_picture(clip), np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"cannot read {_middle_picture(clip)}")
    path = clip.folder / CLIP_FILE
    if not path.exists():
        return {"face_px": float(min(image.shape[:2]))}
    content = json.loads(path.read_bytes())
    boxes = np.asarray(content.get("boxes", []), np.float64).reshape(-1, 4)
    found: dict[str, object] = {}
    if len(boxes):
        found["face_px"] = round(float(np.median(boxes[:, 2:] - boxes[:, :2])), 1)
    rate = (content.get("source") or {}).get("fps")
    if rate is not None:
        found["source_fps"] = round(float(Fraction(rate)), 3)
    return found


def _of_sound(path: Path) -> dict[str, object]:
    """Loudness of the first minute."""
    wavs: list[NDArray[np.float32]] = []
    rate = samples = 0
    for rate, block in read_blocks(path):
        wavs.append(block.mean(axis=0))
        samples += block.shape[1]
        if samples > _LONGEST_LISTENED_S * rate:
            break
    wav = np.concatenate(wavs) if wavs else np.zeros(0, np.float32)
    size = round(_LEVEL_BLOCK_S * rate)
    if not rate or len(wav) < size:
        return {}
    power = np.square(wav[: len(wav) // size * size]).reshape(-1, size).mean(axis=1)
    level = 10 * np.log10(max(float(np.percentile(power, 95)), 1e-12))
    return {"level_db": round(float(level), 1), "clipped": float((np.abs(wav) >= _FULL_SCALE).mean())}


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
