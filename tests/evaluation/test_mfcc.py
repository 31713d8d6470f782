"""MFCC as python_speech_features 0.6 computes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wav2lip_npu.evaluation.mfcc import int16, mfcc, mfcc_windows

GOLDEN = Path(__file__).resolve().parents[1] / "resources" / "mfcc.npz"


def test_mfcc_matches_python_speech_features():
    """The golden numbers are those of python_speech_features 0.6; the recording has a silent part."""
    golden = np.load(GOLDEN)
    np.testing.assert_allclose(mfcc(golden["samples"]), golden["mfcc"], atol=1e-4)


def test_mfcc_of_less_than_one_column():
    assert mfcc(np.ones(10, np.int16)).shape == (1, 13)


@pytest.mark.parametrize("start", [0, 1280])
@pytest.mark.parametrize("size", [1000, 10**6])
def test_windows_of_a_stream_are_those_of_the_whole(start, size):
    wav = np.random.default_rng(0).normal(0, 0.1, 640 * 150 + 300).astype(np.float32)
    chunks = [wav[first : first + size] for first in range(0, len(wav), size)]
    windows = np.concatenate(list(mfcc_windows(chunks, start)))
    whole = mfcc(int16(wav[start:])).T
    assert len(windows) >= (len(wav) - start) // 640 - 5
    for number in (0, 1, 63, 64, 65, 128, len(windows) - 1):
        np.testing.assert_allclose(
            windows[number], whole[:, number * 4 : number * 4 + 20], rtol=1e-5, atol=1e-4
        )


def test_audio_shorter_than_a_window_has_none():
    assert not list(mfcc_windows([np.zeros(3000, np.float32)]))
