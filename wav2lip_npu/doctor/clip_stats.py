"""Statistics of one clip, computed without a network in a few milliseconds."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.data.clip import Clip, read_description
from wav2lip_npu.data.clip_files import MAX_JPEG, read_face
from wav2lip_npu.data.clip_layout import AUDIO_FILE
from wav2lip_npu.errors import Wav2LipError
from wav2lip_npu.media.audio_reader import read_blocks
from wav2lip_npu.mel import DEFAULT_MEL, TRAINING_FPS, Mel
from wav2lip_npu.storage.regular_files import read_limited

_MAX_AUDIO_S = 60
"""Only the first minute is used to measure loudness."""
_LEVEL_BLOCK_S = 0.05
_FULL_SCALE = 0.999
_FLAT = 0.5
"""Range of mel values below which the audio is silent or constant."""
_AUDIBLE = -3.0
"""Mean of a mel column below which it contains only recording noise."""
_ABOVE_FLOOR = 0.75
"""Minimum level of syllables above the quietest 5 % of a clip, in mel units (12.5 dB). In speech, 40 to 90 %
of the columns exceed it; in noise, hum and single tones, less than 2 %."""
_MAX_PX = 1 << 16
_FPS = re.compile(r"\d{1,9}(/[1-9]\d{0,8}|\.\d{1,20})?", re.ASCII)
_JSON_KEYS = {
    "frames": "pictures",
    "missing_frames": "missing",
    "clipped_share": "clipped",
    "speech_share": "speech",
    "audio_hash": "sound",
    "frame_hash": "picture",
    "list_offset": "sound_offset",
    "significant_offset": "sure_offset",
    "error": "problem",
}
"""Published names of the fields that have other names in code."""


@dataclass(frozen=True, kw_only=True)
class ClipStats:
    """Statistics of one clip; None is unknown."""

    name: str
    held_out: bool
    """Whether it is a validation clip."""
    seconds: float
    frames: int
    """Number of frames with a face."""
    missing_frames: int
    """Number of frames without a face between the first and the last one."""
    source_fps: float | None = None
    """fps of its source video."""
    face_px: float | None = None
    """Median side of the face in the source video, in pixels."""
    level_db: float | None = None
    """Level of the loudest 5 % of the audio, in dB relative to full scale."""
    clipped_share: float | None = None
    """Share of samples at full scale."""
    speech_share: float | None = None
    """Share of mel columns with speech."""
    audio_hash: str | None = None
    """Equal for equal audio."""
    frame_hash: str | None = None
    """Equal for equal frames."""
    list_offset: int = 0
    """Frames by which the audio is late according to the file list."""
    offset: int | None = None
    """Additional frames by which the audio is late, measured with SyncNet."""
    significant_offset: int | None = None
    """The offset, or 0 if it is not significant."""
    confidence: float | None = None
    """Cosine at that offset minus the median over all offsets, 0 to 1."""
    error: str | None = None
    """Error of a file that cannot be read."""

    @property
    def speaker(self) -> str:
        """The parent folder, which is one speaker or programme in LRS2 and similar data sets."""
        return speaker_of(self.name)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return {_JSON_KEYS.get(name, name): value for name, value in asdict(self).items()}


def speaker_of(name: str) -> str:
    """Return the parent folder of a clip, or an empty string."""
    return name.rpartition("/")[0]


def measure_clip(clip: Clip, held_out: bool) -> ClipStats:
    """Return the statistics of a clip. Files that cannot be read are reported in `error`."""
    count, frames = len(clip.frames), clip.frames
    measured: dict[str, Any] = {}
    try:
        audio_hash, frame_hash = content_hashes(clip)
        measured |= {"audio_hash": audio_hash, "frame_hash": frame_hash}
        measured |= {"speech_share": speech_share(clip.mel())}
        measured |= _source_stats(clip) | _loudness(clip.folder / AUDIO_FILE)
    except (Wav2LipError, OSError, ValueError, TypeError, ArithmeticError) as error:
        measured["error"] = str(error)
    return ClipStats(
        name=clip.name,
        held_out=held_out,
        seconds=count / TRAINING_FPS,
        frames=count,
        missing_frames=int(frames[-1] - frames[0]) + 1 - count,
        list_offset=clip.audio_offset,
        **measured,
    )


def content_hashes(clip: Clip) -> tuple[str | None, str]:
    """Return hashes of the audio (None for silence) and of a frame, both from the middle of the clip.

    Raises `ClipError`, and `OSError` if the frame is missing.
    """
    mel = clip.mel()
    middle, half = mel.shape[1] // 2, int(DEFAULT_MEL.columns_per_second / 4)
    part = np.ascontiguousarray(mel[:, max(0, middle - half) : middle + half])
    is_silent = float(np.ptp(part)) < _FLAT
    audio_hash = None if is_silent else _hash(part.tobytes() + str(mel.shape[1]).encode())
    return audio_hash, _hash(read_limited(_middle_frame(clip), MAX_JPEG))


def speech_share(mel: Mel) -> float:
    """Return the share of mel columns that exceed the quietest ones as much as syllables do."""
    level = mel.mean(axis=0)
    floor = max(float(np.percentile(level, 5)) + _ABOVE_FLOOR, _AUDIBLE)
    return float((level > floor).mean())


def _middle_frame(clip: Clip) -> Path:
    return clip.folder / f"{int(clip.frames[len(clip.frames) // 2]) - clip.audio_offset}.jpg"


def _source_stats(clip: Clip) -> dict[str, Any]:
    """Return fps and face size of the video; for a clip of the original's preprocess.py, the crop size."""
    image = read_face(_middle_frame(clip))
    content = read_description(clip.folder)
    if content is None:
        return {"face_px": float(min(image.shape[:2]))}
    boxes = np.asarray(content.get("boxes", []), np.float64).reshape(-1, 4)
    stats: dict[str, Any] = {}
    if len(boxes) and np.abs(boxes).max() < _MAX_PX:
        stats["face_px"] = round(float(np.median(boxes[:, 2:] - boxes[:, :2])), 1)
    source = content.get("source")
    fps = source.get("fps") if isinstance(source, dict) else None
    if fps is not None and _FPS.fullmatch(str(fps)):
        stats["source_fps"] = round(float(Fraction(str(fps))), 3)
    return stats


def _loudness(path: Path) -> dict[str, Any]:
    """Return the level of the audio and its share of clipped samples."""
    blocks: list[NDArray[np.float32]] = []
    rate = samples = 0
    for rate, block in read_blocks(path):
        blocks.append(block.mean(axis=0))
        samples += block.shape[1]
        if samples > _MAX_AUDIO_S * rate:
            break
    wav = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    size = round(_LEVEL_BLOCK_S * rate)
    if not rate or len(wav) < size:
        return {}
    power = np.square(wav[: len(wav) // size * size]).reshape(-1, size).mean(axis=1)
    level = 10 * np.log10(max(float(np.percentile(power, 95)), 1e-12))
    return {
        "level_db": round(float(level), 1),
        "clipped_share": float((np.abs(wav) >= _FULL_SCALE).mean()),
    }


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
