"""What the measures need to know about the audio of a video: its length, its envelope and its pauses."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.dubbing.options import DubOptions
from wav2lip_npu.dubbing.pauses import Pauses, find_pauses, rest_weights
from wav2lip_npu.errors import NoAudioError
from wav2lip_npu.media.audio_reader import AudioInfo, Samples, measure_audio, read_mono
from wav2lip_npu.mel import DEFAULT_MEL, TRAINING_FPS

_COLUMNS = int(DEFAULT_MEL.columns_per_second)
_SHORTEST_S = 0.06
_QUIET, _DB_PER_UNIT = -2.4, 12.5
"""Mel units of -60 dB, and dB per unit."""


@dataclass(frozen=True)
class AudioTrack:
    """The audio of a video."""

    info: AudioInfo
    envelope: NDArray[np.float32]
    """Loudness of each frame at 25 per second, in [-4, 4]."""
    pauses: Pauses
    """Whether the audio around each of these frames is a pause of at least 0.2 s."""

    def is_pause(self, frame: int) -> bool:
        """Return whether the audio of a frame is a pause; audio after the end is one."""
        return frame >= len(self.pauses) or bool(self.pauses[frame])


def read_track(path: str | os.PathLike[str]) -> AudioTrack | None:
    """Measure the audio of a video, block by block; None without audio, or with less than 60 ms.

    Raises `MediaError`.
    """
    try:
        info = measure_audio(path)
    except NoAudioError:
        return None
    if info.duration < _SHORTEST_S:
        return None
    columns = _levels(read_mono(info))
    resting = rest_weights(find_pauses(columns, DubOptions().rest_threshold)) >= 1
    frames = np.arange(int(info.duration * TRAINING_FPS)) * _COLUMNS // TRAINING_FPS
    at = np.minimum(frames, len(columns) - 1)
    return AudioTrack(info, columns[at], resting[at])


def _levels(chunks: Iterable[Samples]) -> NDArray[np.float32]:
    """Return the level of every 12.5 ms of audio, in the units of a mel: -2.4 for -60 dB, 12.5 dB per unit.

    It stands for the loudness of mel columns without computing a mel, whose library takes seconds to import.
    """
    rest: Samples = np.empty(0, np.float32)
    levels: list[NDArray[np.float32]] = []
    for chunk in chunks:
        samples = np.concatenate([rest, chunk])
        count = len(samples) // DEFAULT_MEL.hop
        power = np.square(samples[: count * DEFAULT_MEL.hop]).reshape(count, DEFAULT_MEL.hop).mean(axis=1)
        decibels = 10 * np.log10(np.maximum(power, 1e-12))
        levels.append(np.clip(_QUIET + (decibels + 60) / _DB_PER_UNIT, -4, 4).astype(np.float32))
        rest = samples[count * DEFAULT_MEL.hop :]
    return np.concatenate(levels)
