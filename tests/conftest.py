"""Fixtures: short real media and tiny networks; selection of the tests of a device."""

from __future__ import annotations

import gc
import random
from fractions import Fraction
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

from support.devices import DEVICE
from support.faces import SHARED, face_frames, write_audio
from support.networks import golden_weights
from support.trainings import clips, one_thread, training_set  # noqa: F401 fixtures
from wav2lip_npu.media.video_writer import EncodeOptions, write_video
from wav2lip_npu.media.yuv_image import Colour, YuvImage
from wav2lip_npu.models import checkpoint
from wav2lip_npu.models.networks import Wav2Lip


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not import files without tests for this device, or without the marker with which `-m` begins."""
    first = (config.option.markexpr or "not").split()[0]
    markers = {"any_device"} if DEVICE.type != "cpu" else set()
    markers |= {first} & {"alone", "slow"}
    if not markers or not collection_path.match("test_*.py"):
        return None
    text = collection_path.read_text()
    return any(f"mark.{marker}" not in text for marker in markers) or None


hypothesis.settings.register_profile("suite", deadline=None, derandomize=True)  # no time limits
hypothesis.settings.load_profile("suite")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On a device other than the CPU, run only `any_device` tests; there, those marked `slow_on_npu` are slow."""
    left_out = [
        item
        for item in items
        if (DEVICE.type != "npu" and item.get_closest_marker("npu_only"))
        or (DEVICE.type != "cpu" and not item.get_closest_marker("any_device"))
    ]
    for item in items:
        if DEVICE.type != "cpu" and item.get_closest_marker("slow_on_npu"):
            item.add_marker("slow")
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in set(left_out)]


def pytest_collection_finish() -> None:
    """Exclude the modules from later garbage collections, which saves 3 % of the time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Give each test the same random numbers, regardless of earlier tests."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real clips; they are not part of the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"the real clips are missing: {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator of width 2 with seeded weights."""
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    checkpoint.save(path, golden_weights(Wav2Lip(width=2)))
    return path


@pytest.fixture(scope="session")
def face_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds, 25 fps, 320x240: the astronaut's face moves over a plain background."""
    path = tmp_path_factory.mktemp("clips") / "face.mp4"
    write_video(face_frames(50), path, fps=Fraction(25), options=EncodeOptions(crf=10, preset="ultrafast"))
    return path


@pytest.fixture(scope="session")
def faceless_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One second without any face."""
    path = tmp_path_factory.mktemp("clips") / "nobody.mp4"
    grey = YuvImage.from_image(np.full((240, 320, 3), 128, np.uint8), Colour())
    write_video([grey] * 25, path, fps=Fraction(25), options=EncodeOptions(preset="ultrafast"))
    return path


@pytest.fixture(scope="session")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """0.6 s of an intermittent buzzing vowel, 16 kHz mono WAV: 15 frames at 25 fps."""
    return write_audio(tmp_path_factory.mktemp("audio") / "speech.wav", 0.6)
