"""Mixing channels to mono: channels in antiphase do not cancel out."""

from __future__ import annotations

import numpy as np
import pytest

from support.media_files import chirp, write_audio, write_wav
from wav2lip_npu.media.audio_reader import read_audio
from wav2lip_npu.media.downmix import Downmix

VOICE = chirp(2)
NOISE = np.random.default_rng(0).normal(0, 0.1, (8, len(VOICE))).astype(np.float32)


def power(wav: np.ndarray) -> float:
    return float(np.square(wav.astype(float)).mean())


def mixed(audio: np.ndarray, block: int = 1024) -> np.ndarray:
    downmix = Downmix(16_000)
    return np.concatenate([downmix(audio[:, at : at + block]) for at in range(0, audio.shape[1], block)])


ANTIPHASE = {
    "stereo": [1, -1],
    "stereo, uneven": [1, -0.9],
    "stereo, first inverted": [-0.5, 0.5],
    "three": [1, -0.5, -0.5],
    "quad": [1, -1, 1, -1],
    "5.1, front": [1, -1, 0, 0, 0, 0],
    "5.1, front and back": [0.8, -0.8, 0, 0, 0.3, -0.3],
    "7.1, back": [0, 0, 0, 0, 0, 0, 1, -1],
}


@pytest.mark.parametrize("gains", ANTIPHASE.values(), ids=ANTIPHASE)
@pytest.mark.parametrize("block", [200, 1024, 4096])
def test_antiphase_is_not_cancelled(gains, block):
    """B13: the mean of the channels would be silence."""
    audio = np.outer(gains, VOICE).astype(np.float32)
    expected = np.abs(gains).mean() * VOICE
    result = mixed(audio, block)
    assert power(result) == pytest.approx(power(expected), rel=0.02)
    assert np.abs(np.abs(result) - np.abs(expected)).max() < 1e-5


@pytest.mark.parametrize(
    "suffix, codec", [("wav", ""), ("flac", "flac"), ("m4a", "aac"), ("mp3", "libmp3lame")]
)
def test_antiphase_files_are_not_cancelled(tmp_path, suffix, codec):
    """B13: after lossy coding too."""
    audio = np.stack([VOICE, -VOICE])
    path = tmp_path / f"a.{suffix}"
    path = write_audio(path, audio, 16_000, codec) if codec else write_wav(path, audio)
    assert power(read_audio(path)) == pytest.approx(power(VOICE), rel=0.1)


@pytest.mark.parametrize("channels", [2, 6, 8])
@pytest.mark.parametrize("content", ["equal", "one", "independent", "panned"])
def test_other_audio_is_the_mean(channels, content):
    """B13: the result is exactly the mean of the channels unless they cancel out."""
    gains = {
        "equal": np.ones(channels),
        "one": np.eye(channels)[-1],
        "panned": np.linspace(0.1, 1, channels),
        "independent": np.ones(channels),
    }[content]
    audio = np.outer(gains, VOICE).astype(np.float32)
    if content == "independent":
        audio = NOISE[:channels].copy()
    assert np.array_equal(mixed(audio), audio.mean(axis=0)) or content == "independent"
    assert power(mixed(audio)) == pytest.approx(power(audio.mean(axis=0)), rel=0.02)


def test_change_of_phase_within_a_file():
    """B13: an inverted part is audible after at most half a second, without a click."""
    audio = np.stack([VOICE, VOICE])
    audio[1, 8_000:24_000] *= -1
    result = mixed(audio)
    for start in (0, 16_000, 28_000):
        part = slice(start, start + 4_000)
        assert power(result[part]) > 0.9 * power(VOICE[part])
    assert np.abs(np.diff(result)).max() < 1.5 * np.abs(np.diff(VOICE)).max()


def test_silence_and_empty_blocks():
    """B13: silent blocks change nothing."""
    downmix = Downmix(16_000)
    assert downmix(np.zeros((2, 0), np.float32)).shape == (0,)
    assert not downmix(np.zeros((2, 100), np.float32)).any()
    assert power(downmix(np.stack([VOICE, -VOICE]))) > 0
    assert not downmix(np.zeros((2, 100), np.float32)).any()
