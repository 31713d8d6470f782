"""Streams of a tiny network and a synthetic face."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from support.devices import DEVICE
from support.faces import SquareDetector
from wav2lip_npu.dubbing import inference


@pytest.fixture(scope="session")
def loaded(tiny_checkpoint) -> inference.Models:
    """The tiny generator, and a detector that finds the face of `face_video`."""
    return replace(
        inference.load_models(tiny_checkpoint, detector="hog", device=str(DEVICE)), detector=SquareDetector()
    )


@pytest.fixture
def models(loaded) -> inference.Models:
    """Models whose streams are shared with no other test."""
    return replace(loaded)


@pytest.fixture(scope="session")
def pcm() -> np.ndarray:
    """Two seconds of a buzz with a second of silence in the middle, int16 at 16 kHz."""
    time = np.arange(32_000) / 16_000
    wav = 8000 * np.sign(np.sin(2 * np.pi * 120 * time + 0.1)) * (0.6 + 0.4 * np.sin(2 * np.pi * 5 * time))
    wav[8_000:24_000] = 0
    return wav.astype(np.int16)
