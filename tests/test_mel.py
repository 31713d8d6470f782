"""Mel spectrograms: numbers of the original, and librosa on the whole file."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import librosa
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view

from support.memory import traced_peak
from wav2lip_npu import mel as mels
from wav2lip_npu.mel import MelConfig, MelReader, log_mel, mel_blocks, mel_window, window_start

GOLDEN = Path(__file__).parent / "resources"
RATES = (Fraction(24000, 1001), Fraction(24), Fraction(25), Fraction(30000, 1001), Fraction(30), Fraction(60))


def transform(wav: np.ndarray) -> np.ndarray:
    """Return the STFT complex [401, T] as librosa computes it."""
    frames = sliding_window_view(np.pad(wav, 400, mode="reflect"), 800)[::200]
    return np.fft.rfft(frames * np.hanning(801)[:-1]).T


def whole_file(wav: np.ndarray) -> np.ndarray:
    """Return the mel by the formulas of the original, with one transform of the whole audio."""
    spectrum = transform(np.append(wav[:1], wav[1:] - 0.97 * wav[:-1].astype(np.float64)))
    bank = librosa.filters.mel(sr=16_000, n_fft=800, n_mels=80, fmin=55, fmax=7600)
    level = 20 * np.log10(np.maximum(1e-5, bank @ np.abs(spectrum))) - 20
    return np.clip(8 * (level + 100) / 100 - 4, -4, 4)


def speech(samples: int) -> np.ndarray:
    """Return a vowel-like buzz with syllables, breath and pauses."""
    time = np.arange(samples) / 16_000
    pitch = 2 * np.pi * np.cumsum(110 + 30 * np.sin(2 * np.pi * 0.7 * time)) / 16_000
    voice = sum(np.sin(number * pitch) / number for number in range(1, 20))
    syllables = np.clip(np.sin(2 * np.pi * 3.3 * time), 0, 1)
    breath = np.random.default_rng(1).normal(0, 0.002, samples)
    return (0.2 * voice * syllables + breath).astype(np.float32)


def columns(count: int) -> np.ndarray:
    return np.broadcast_to(np.arange(count, dtype=np.float32), (80, count))


@pytest.mark.slow  # librosa compiles for seconds
def test_the_transform_of_these_tests_is_that_of_librosa() -> None:
    wav = speech(5000).astype(np.float64)
    spectrum = librosa.stft(wav, n_fft=800, hop_length=200, win_length=800, pad_mode="reflect")
    np.testing.assert_allclose(transform(wav), spectrum, rtol=0, atol=1e-9)


def test_golden_mel() -> None:
    golden = np.load(GOLDEN / "mel.npz")
    mel = log_mel(golden["wav"])
    assert mel.dtype == np.float32
    np.testing.assert_allclose(mel, golden["mel"], rtol=0, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(samples=st.integers(401, 9000), seed=st.integers(0, 1000), loudness=st.floats(1e-4, 1))
def test_equals_the_formulas_of_the_original(samples: int, seed: int, loudness: float) -> None:
    wav = (loudness * np.random.default_rng(seed).uniform(-1, 1, samples)).astype(np.float32)
    mel = log_mel(wav)
    assert mel.shape == (80, 1 + samples // 200)
    np.testing.assert_allclose(mel, whole_file(wav), rtol=0, atol=1e-5)


@pytest.mark.parametrize("block", [1, 2, 3, 7, 64, 100_000])
@pytest.mark.parametrize("samples", [401, 12_799, 12_800, 12_801])
def test_blocks_equal_the_whole_file(block: int, samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    wav = speech(samples)
    monkeypatch.setattr(mels, "_BLOCK_COLUMNS", block)
    np.testing.assert_allclose(log_mel(wav), whole_file(wav), rtol=0, atol=1e-5)


@pytest.mark.parametrize("more", [-1, 0, 1, 199, 200])
def test_two_blocks_equal_the_whole_file(more: int) -> None:
    wav = speech(1024 * 200 + more)
    np.testing.assert_allclose(log_mel(wav), whole_file(wav), rtol=0, atol=1e-5)


@pytest.mark.parametrize("samples", [401, 204_999, 205_000, 205_200, 205_400, 450_017])
@pytest.mark.parametrize("size", [97, 1024, 204_801, 1 << 20])
def test_chunks_of_any_size_give_the_same_mel(samples: int, size: int) -> None:
    """A16: the mel of streamed audio equals that of the whole audio bit for bit."""
    wav = speech(samples)
    blocks = list(mel_blocks(wav[start : start + size] for start in range(0, samples, size)))
    assert max(block.shape[1] for block in blocks) <= 1024
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), log_mel(wav))


@pytest.mark.parametrize("fps", RATES)
@pytest.mark.parametrize("shift", [-30, -1, 0, 2.5, 40])
def test_streamed_windows_equal_those_of_the_whole_mel(fps: Fraction, shift: float) -> None:
    """A16: windows before the start, inside, across blocks and after the end."""
    mel = np.random.default_rng(0).normal(size=(80, 400)).astype(np.float32)
    for sizes in ([400], [16, 384], [3] * 133 + [1], [100] * 4):
        reader = MelReader(iter(np.split(mel, np.cumsum(sizes)[:-1], axis=1)))
        for frame in range(0, int(8 * fps), 3):
            expected = mel_window(mel, frame, fps, shift)
            np.testing.assert_array_equal(reader.window(frame, fps, shift), expected)


def test_reader_holds_one_block() -> None:
    """A16: three hours of mel take a few MB, also if most frames need no window."""
    blocks = (np.zeros((80, 1024), np.float32) for _ in range(844))
    reader = MelReader(blocks)
    with traced_peak() as peak:
        for frame in (*range(0, 135_000, 250), 269_999):
            reader.window(frame, Fraction(25))
        assert peak() < 4 << 20


def test_memory_does_not_grow_with_the_audio() -> None:
    """An hour of audio is 230 MB, its mel 92 MB."""
    log_mel(np.zeros(16_000, np.float32))
    extra = []
    for minutes in (1, 4):
        wav = np.zeros(minutes * 60 * 16_000, np.float32)
        with traced_peak() as peak:
            mel = log_mel(wav)
            extra.append(peak() - mel.nbytes)
    assert extra[1] < 1.1 * extra[0] and extra[1] < 100 << 20


def test_another_config() -> None:
    config = MelConfig(sample_rate=22_050, n_fft=1024, hop=256, n_mels=40, fmin=1200, fmax=11_000)
    assert log_mel(speech(22_050), config).shape == (40, 1 + 22_050 // 256)


def test_silence_is_the_lowest_level() -> None:
    assert (log_mel(np.zeros(16_000, np.float32)) == -4).all()


def test_audio_below_half_a_window_raises() -> None:
    assert log_mel(np.zeros(401, np.float32)).shape == (80, 3)
    with pytest.raises(ValueError, match=r"400 samples.* 401"):
        log_mel(np.zeros(400, np.float32))


def test_audio_is_not_modified() -> None:
    wav = speech(3200)
    before = wav.copy()
    log_mel(wav)
    assert np.array_equal(wav, before)


def golden_starts() -> list[tuple[Fraction, int, list[int]]]:
    content = json.loads((GOLDEN / "mel_chunk_starts.json").read_text())
    return [(Fraction(key.split("/")[0]), int(key.split("/")[1]), starts) for key, starts in content.items()]


@pytest.mark.parametrize(("fps", "count", "starts"), golden_starts())
def test_golden_window_starts(fps: Fraction, count: int, starts: list[int]) -> None:
    """The original's list ends with the first window that does not fit, moved back to the last 16 columns."""
    mel = columns(count)
    assert [int(mel_window(mel, frame, fps)[0, 0]) for frame in range(len(starts))] == starts
    assert window_start(len(starts) - 1, fps) + 16 > count
    assert len(starts) == 1 or window_start(len(starts) - 2, fps) + 16 <= count


@pytest.mark.parametrize("fps", RATES)
def test_window_start_is_the_float_product_of_the_original(fps: Fraction) -> None:
    frames = [*range(0, 200_000, 7), 100_000, 16_777_217, 10**9 + 1]
    assert [window_start(frame, fps) for frame in frames] == [int(i * (80.0 / float(fps))) for i in frames]


def test_window_start_of_late_frames_is_exact() -> None:
    start = window_start(10_000_000, Fraction(25))
    assert type(start) is int
    assert start == 32_000_000
    assert [window_start(100_000 + i, Fraction(25)) for i in range(6)] == [
        320_000 + 16 * i // 5 for i in range(6)
    ]


def test_window_is_sixteen_columns_inside_the_audio() -> None:
    mel = columns(40)
    for frame in (-1000, -1, 0, 3, 7, 8, 1000):
        for shift in (-2.0, 0.0, 2.5):
            window = mel_window(mel, frame, Fraction(25), shift)
            assert window.shape == (80, 16)
            assert np.array_equal(np.diff(window[0]), np.ones(15))
    assert mel_window(mel, -5, Fraction(25))[0, 0] == 0
    assert mel_window(mel, 0, Fraction(25), -1)[0, 0] == 0
    assert mel_window(mel, 1000, Fraction(25))[0, 0] == 24
    assert mel_window(columns(16), 5, Fraction(25))[0, 0] == 0


def test_shift_of_minus_one_gives_the_training_formula() -> None:
    frames = range(1, 50_000, 3)
    assert [window_start(f, Fraction(25), -1) for f in frames] == [int(80 * (f - 1) / 25) for f in frames]


@pytest.mark.parametrize("fps", RATES)
def test_shift_is_a_time_at_any_frame_rate(fps: Fraction) -> None:
    for shift in (-2.0, -1.0, -0.5, 1.0, 3.0):
        for frame in (100, 1234, 99_999):
            moved = window_start(frame, fps, shift) - window_start(frame, fps)
            assert abs(moved - shift * 80 / 25) < 1 + 1e-6
