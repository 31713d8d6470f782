"""Log-mel spectrograms, the audio input of the networks, and the mel columns that belong to a frame.

Settings and formulas are those of the published checkpoints (`audio.py` of the original with librosa 0.7).
`T` is a number of mel columns, 80 per second.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np
from numpy.typing import NDArray

Mel = NDArray[np.float32]
"""float32 [80, T] in [-4, 4]"""


@dataclass(frozen=True, kw_only=True)
class MelConfig:
    """Settings of the spectrogram. A network works only with the settings it was trained with."""

    sample_rate: int = 16_000
    """Samples per second."""
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
    """Weight of the previous sample, subtracted from each sample."""
    min_level_db: float = -100.0
    """Level in dB that maps to -max_abs."""
    ref_level_db: float = 20.0
    """Level in dB that maps to +max_abs."""
    max_abs: float = 4.0
    """Absolute bound of the result."""
    columns_per_window: int = 16
    """Columns of a mel window (200 ms, 5 frames at 25 fps)."""

    @property
    def columns_per_second(self) -> float:
        """Mel columns per second of audio."""
        return self.sample_rate / self.hop


DEFAULT_MEL = MelConfig()
TRAINING_FPS = 25
_BLOCK_COLUMNS = 1024
_HZ_PER_MEL, _LOG_FROM_HZ, _LOG_STEP = 200 / 3, 1000.0, math.log(6.4) / 27
"""Constants of Slaney's mel scale."""


def log_mel(wav: NDArray[np.float32], config: MelConfig = DEFAULT_MEL) -> Mel:
    """Return the log-mel spectrogram float32 [80, 1 + samples // 200] in [-4, 4] of mono audio.

    `mel_blocks` does the same without the whole audio or the whole result in memory.

    Args:
        wav: float32 [samples] at the sample rate of `config`, 16 kHz by default.
        config: Settings that the network was trained with.

    Raises:
        ValueError: The audio is shorter than half a Fourier window (25 ms).

    """
    mel = np.empty((config.n_mels, columns_of(len(wav), config)), np.float32)
    first = 0
    for block in mel_blocks([wav], config):
        mel[:, first : first + block.shape[1]] = block
        first += block.shape[1]
    return mel


def columns_of(samples: int, config: MelConfig = DEFAULT_MEL) -> int:
    """Return the number of mel columns for a number of audio samples."""
    return 1 + samples // config.hop


def mel_blocks(chunks: Iterable[NDArray[np.float32]], config: MelConfig = DEFAULT_MEL) -> Iterator[Mel]:
    """Yield the log-mel spectrogram of mono audio in blocks [80, up to 1024] of 13 s.

    The audio is padded by reflection, as in the original with librosa 0.7. The result does not depend on the
    sizes of the chunks. At most 14 s of audio and the current chunk are in memory.

    Args:
        chunks: Consecutive parts of the audio, float32 [samples] at the sample rate of `config`.
        config: Settings that the network was trained with.

    Raises:
        ValueError: The audio is shorter than half a Fourier window (25 ms).

    """
    audio = MelAudio(config)
    for chunk in chunks:
        audio.push(chunk)
        while audio.ready >= _BLOCK_COLUMNS:
            yield audio.take(_BLOCK_COLUMNS)
    if audio.samples <= config.n_fft // 2:
        raise ValueError(
            f"the audio has {audio.samples} samples, at least {config.n_fft // 2 + 1} are needed"
        )
    while rest := columns_of(audio.samples, config) - audio.taken:
        yield audio.take(min(_BLOCK_COLUMNS, rest))


class MelAudio:
    """Mono audio that arrives in parts, and its mel columns in order. Holds what later columns need.

    A column is final when the half of its Fourier window after its centre has arrived, 25 ms of audio.
    """

    def __init__(self, config: MelConfig = DEFAULT_MEL) -> None:
        self._config = config
        self._held: list[NDArray[np.float32]] = []
        self._begin = 0
        """First sample in memory."""
        self.samples = 0
        """Number of samples pushed so far."""
        self.taken = 0
        """Number of columns taken so far."""

    @property
    def ready(self) -> int:
        """Number of final columns that can be taken."""
        return (self.samples - self._config.n_fft // 2) // self._config.hop + 1 - self.taken

    def push(self, samples: NDArray[np.float32]) -> None:
        """Append samples, float32 [any number]."""
        self._held.append(samples)
        self.samples += len(samples)

    def take(self, columns: int) -> Mel:
        """Return the next columns [80, columns]. Columns that are not final end with reflected audio."""
        config = self._config
        lead = -(-config.n_fft // config.hop)  # columns before, which depend on padding and are dropped
        wav = self._held[0] if len(self._held) == 1 else np.concatenate(self._held)
        first, self.taken = self.taken, self.taken + columns
        mel = _columns(wav, self._begin, max(first - lead, 0), first, self.taken, config)
        drop = max((self.taken - lead) * config.hop - 1 - self._begin, 0)
        self._held, self._begin = [wav[drop:]], self._begin + drop
        return mel


def _columns(
    wav: NDArray[np.float32], begin: int, start: int, first: int, last: int, config: MelConfig
) -> Mel:
    """Return mel columns first..last, transformed from `start` on; `wav` starts at sample `begin`."""
    stop = (last - 1) * config.hop + config.n_fft // 2
    samples = _emphasise(wav, start * config.hop - begin, stop - begin, config)
    padded = np.pad(samples, config.n_fft // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, config.n_fft)[:: config.hop]
    spectrum = np.fft.rfft(_hann(config.n_fft) * frames[first - start : last - start]).T
    return _normalise(_filter_bank(config) @ np.abs(spectrum), config).astype(np.float32)


def _emphasise(wav: NDArray[np.float32], start: int, stop: int, config: MelConfig) -> NDArray[np.float64]:
    """Return samples start..stop, clipped to the audio, after pre-emphasis with 0 before the audio."""
    samples = wav[max(start - 1, 0) : stop].astype(np.float64)
    emphasised: NDArray[np.float64] = samples.copy()
    emphasised[1:] -= config.preemphasis * samples[:-1]
    return emphasised[min(start, 1) :]


@cache
def _hann(size: int) -> NDArray[np.float64]:
    """Return the periodic Hann window [size]."""
    window: NDArray[np.float64] = 0.5 + 0.5 * np.cos(np.linspace(-np.pi, np.pi, size + 1)[:-1])
    return window


@cache
def _filter_bank(config: MelConfig) -> NDArray[np.float32]:
    """Return the filter bank float32 [80, 401] of Slaney's Auditory Toolbox, as librosa computes it.

    Its triangles have equal area, and their corners are equally spaced in mel.
    """
    low, high = (_mel_of(edge) for edge in (config.fmin, config.fmax))
    corners = _hertz_of(np.linspace(low, high, config.n_mels + 2))
    bins = np.fft.rfftfreq(config.n_fft, 1 / config.sample_rate)
    ramps, widths = corners[:, None] - bins, np.diff(corners)[:, None]
    rising, falling = -ramps[:-2] / widths[:-1], ramps[2:] / widths[1:]
    bank = np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
    bank *= 2 / (corners[2:] - corners[:-2])[:, None]
    return bank


def _mel_of(hertz: float) -> float:
    """Return Slaney's mel of a frequency: linear below 1 kHz, logarithmic above."""
    if hertz < _LOG_FROM_HZ:
        return hertz / _HZ_PER_MEL
    return _LOG_FROM_HZ / _HZ_PER_MEL + math.log(hertz / _LOG_FROM_HZ) / _LOG_STEP


def _hertz_of(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the frequencies of mels: the inverse of `_mel_of`."""
    above = np.maximum(mel - _LOG_FROM_HZ / _HZ_PER_MEL, 0)
    return np.where(above > 0, _LOG_FROM_HZ * np.exp(_LOG_STEP * above), _HZ_PER_MEL * mel)


def _normalise(mel: NDArray[np.float64], config: MelConfig) -> NDArray[np.float64]:
    """Convert magnitudes to dB relative to the reference level, then linearly to [-max_abs, max_abs]."""
    floor = 10 ** (config.min_level_db / 20)
    level = 20 * np.log10(np.maximum(floor, mel)) - config.ref_level_db
    span = 2 * config.max_abs
    scaled = span * (level - config.min_level_db) / -config.min_level_db - config.max_abs
    return np.clip(scaled, -config.max_abs, config.max_abs)


def window_start(frame: int, fps: Fraction, shift: float = 0, config: MelConfig = DEFAULT_MEL) -> int:
    """Return the first mel column of the window of a frame; it may be outside the audio.

    The product is computed in floating point because the original does so: at 24000/1001 fps it differs from
    the exact floor for one frame in 1200. `shift` counts frames at the training rate (40 ms). -1 gives the
    pairing of the published training code, which differs by one frame from that of the original's inference
    (github.com/Rudrabha/Wav2Lip/issues/209 and /680).
    """
    shifted = frame + shift * float(fps / TRAINING_FPS) if shift else frame
    return int(np.floor(shifted * (config.columns_per_second / float(fps))))


def mel_window(mel: Mel, frame: int, fps: Fraction, shift: float = 0, config: MelConfig = DEFAULT_MEL) -> Mel:
    """Return the mel window [80, 16] of a frame, clamped to whole windows inside the audio."""
    last = mel.shape[1] - config.columns_per_window
    assert last >= 0, "the audio is shorter than a mel window"
    start = min(max(window_start(frame, fps, shift, config), 0), last)
    return mel[:, start : start + config.columns_per_window]


class MelReader:
    """Mel windows from the blocks of a mel, for frames in ascending order. Holds about one block."""

    def __init__(self, blocks: Iterator[Mel], config: MelConfig = DEFAULT_MEL) -> None:
        self._blocks, self._config = blocks, config
        self._held: Mel = np.empty((config.n_mels, 0), np.float32)
        self._begin = 0
        """Index of the first column in memory."""

    def window(self, frame: int, fps: Fraction, shift: float = 0) -> Mel:
        """Return the result of `mel_window` for the whole mel; frames must be in ascending order."""
        size = self._config.columns_per_window
        start = max(window_start(frame, fps, shift, self._config), 0)
        while (end := self._begin + self._held.shape[1]) < start + size:
            block = next(self._blocks, None)
            if block is None:
                start = end - size
                break
            drop = max(min(start, end - size) - self._begin, 0)
            self._held = np.concatenate([self._held[:, drop:], block], axis=1)
            self._begin += drop
        offset = start - self._begin
        assert offset >= 0, "frames are not in ascending order, or the audio is shorter than a mel window"
        window: Mel = self._held[:, offset : offset + size].copy()
        return window
