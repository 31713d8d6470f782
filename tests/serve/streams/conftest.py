"""One service with one live process for all tests of streams."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from support.faces import face_frames
from support.service import RunningService, running_service
from wav2lip_npu.media.video_writer import write_video


@pytest.fixture(scope="session")
def face(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a second of a face that the real detector finds."""
    path = tmp_path_factory.mktemp("face") / "face.mp4"
    write_video(face_frames(12), path, fps=Fraction(25))
    return path


@pytest.fixture(scope="session")
def speech_pcm() -> np.ndarray:
    """Two seconds of a buzz with syllables, int16 at 16 kHz."""
    time = np.arange(32_000) / 16_000
    wav = np.sign(np.sin(2 * np.pi * 120 * time + 0.1)) * (0.3 + 0.25 * np.sin(2 * np.pi * 4 * time))
    return (wav * 20_000).astype(np.int16)


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory, face: Path) -> Iterator[RunningService]:
    """A service whose device may hold four streams."""
    weights = tmp_path_factory.mktemp("weights")
    (weights / "broken.pth").write_bytes(b"not weights")
    options = {
        "devices": ("cpu",),
        "max_streams": 4,
        "max_streams_per_client": 3,
        "checkpoints": str(weights),
    }
    with running_service(tmp_path_factory.mktemp("live"), face, **options) as running:
        yield running
