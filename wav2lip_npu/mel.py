"""Sound as the networks hear it: log-mel columns, and which of them belong to which frame.

Settings and formulas are those the published checkpoints were trained with (the original's `audio.py`
under librosa 0.7). Names: `T` mel columns, 80 of them a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np
from numpy.typing import NDArray

Mel = NDArray[np.float32]
"""float32 [80, T] in [-4, 4]"""


@dataclass(frozen=True, kw_only=True)
class MelConfig:
    """How sound becomes mel columns; networks trained with one setting understand no other."""

    sample_rate: int = 16_000
    """Samples a second."""
    n_fft: int = 800
    """Samples of a Fourier window (50 ms)."""
    hop: int = 200
    """Samples from one column to the next (12.5 ms)."""
    n_mels: int = 80
    """Frequency bands."""
    fmin: float = 55.0
    """Lowest band edge, Hz."""
    fmax: float = 7600.0
    """Highest band edge, Hz."""
    preemphasis: float = 0.97
    """Weight of the previous sample that is taken off each sample."""
    min_level_db: float = -100.0
    """Level that becomes -max_abs."""
    ref_level_db: float = 20.0
    """Level that becomes +max_abs."""
    max_abs: float = 4.0
    """Bound of the result."""
    columns_per_window: int = 16
    """Columns that the networks see at once (200 ms, 5 frames at 25 fps)."""

    @property
    def columns_per_second(self) -> float:
        """Mel columns a second of sound."""
        return self.sample_rate / self.hop


DEFAULT_MEL = MelConfig()
TRAINING_FPS = 25
_BLOCK_COLUMNS = 1024


def log_mel(wav: NDArray[np.float32], config: MelConfig = DEFAULT_MEL) -> Mel:
    """Log-mel float32 [80, 1 + samples // 200] in [-4, 4] of mono sound [samples] at 16 kHz.

    Pads by reflection, as librosa 0.7 did. Works in blocks, so an hour of sound needs
    little more memory than its result. Sound shorter than half a Fourier window (25 ms) raises
    `ValueError`.
    """
    half = config.n_fft // 2
    if len(wav) <= half:
        raise ValueError(f"{len(wav)} samples of sound are too few, {half + 1} are needed")
    columns = 1 + len(wav) // config.hop
    mel = np.empty((config.n_mels, columns), np.float32)
    bank = mel_bank(config)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(config.n_fft) / config.n_fft)
    for first in range(0, columns, _BLOCK_COLUMNS):
        last = min(first + _BLOCK_COLUMNS, columns)
        block = _emphasised(wav, first * config.hop - half, (last - 1) * config.hop + half, config)
        windows = np.lib.stride_tricks.sliding_window_view(block, config.n_fft)[:: config.hop]
        spectrum = np.fft.rfft(windows * hann, axis=1)
        mel[:, first:last] = _normalise(bank @ np.abs(spectrum).T, config)
    return mel


def _emphasised(wav: NDArray[np.float32], start: int, stop: int, config: MelConfig) -> NDArray[np.float64]:
    """Samples start..stop of the sound after pre-emphasis, mirrored past both ends."""
    last = len(wav) - 1
    index = last - np.abs(last - np.abs(np.arange(start, stop)))
    before = np.where(index > 0, wav[index - 1], 0).astype(np.float64)
    emphasised: NDArray[np.float64] = wav[index] - config.preemphasis * before
    return emphasised


@cache
def mel_bank(config: MelConfig = DEFAULT_MEL) -> NDArray[np.float32]:
    """Filter bank [80, 401]: triangles of equal area, even on the mel scale of Slaney's Auditory Toolbox
    (Interval Technical Report 1998-010), linear below 1 kHz and logarithmic above.

    It equals `librosa.filters.mel`, which a test compares; importing librosa would take two seconds.
    """
    linear_hz, break_hz, log_step = 200 / 3, 1000.0, np.log(6.4) / 27
    break_mel = break_hz / linear_hz

    def to_mel(hz: float) -> float:
        return hz / linear_hz if hz < break_hz else break_mel + float(np.log(hz / break_hz)) / log_step

    mels = np.linspace(to_mel(config.fmin), to_mel(config.fmax), config.n_mels + 2)
    above = break_hz * np.exp(log_step * (np.maximum(mels, break_mel) - break_mel))
    edges = np.where(mels < break_mel, mels * linear_hz, above)[:, None]
    bins = np.arange(config.n_fft // 2 + 1) * config.sample_rate / config.n_fft
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    triangles = np.maximum(0, np.minimum(rising, falling)) * 2 / (edges[2:] - edges[:-2])
    bank: NDArray[np.float32] = triangles.astype(np.float32)
    return bank


def _normalise(mel: NDArray[np.float64], config: MelConfig) -> NDArray[np.float64]:
    """Magnitudes to decibels below the reference, then linearly to [-max_abs, max_abs]."""
    floor = 10 ** (config.min_level_db / 20)
    level = 20 * np.log10(np.maximum(floor, mel)) - config.ref_level_db
    span = 2 * config.max_abs
    scaled = span * (level - config.min_level_db) / -config.min_level_db - config.max_abs
    return np.clip(scaled, -config.max_abs, config.max_abs)


def window_start(frame: int, fps: Fraction, shift: float = 0, config: MelConfig = DEFAULT_MEL) -> int:
    """First mel column of video frame `frame`, before clamping to the recording.

    The product is a float product on purpose: so the original computes it, and at 24000/1001 fps it
    differs from the exact floor at one frame in 1200. `shift` counts frames of the training rate
    (40 ms): with -1 the pairing is that of the released training code, which inference of the original
    leads by one frame (github.com/Rudrabha/Wav2Lip/issues/209 and /680).
    """
    shifted = frame + shift * float(fps / TRAINING_FPS) if shift else frame
    return int(np.floor(shifted * (config.columns_per_second / float(fps))))


def mel_window(mel: Mel, frame: int, fps: Fraction, shift: float = 0, config: MelConfig = DEFAULT_MEL) -> Mel:
    """The columns [80, 16] that frame `frame` speaks; at either end of the sound the last whole window."""
    last = mel.shape[1] - config.columns_per_window
    assert last >= 0, "the sound is shorter than a mel window"
    start = min(max(window_start(frame, fps, shift, config), 0), last)
    return mel[:, start : start + config.columns_per_window]
