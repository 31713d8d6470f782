"""Small real media, tiny networks and a detector that knows where the face is."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import golden_weights
from places import PLACE
from trainings import clips, one_thread, training_set  # noqa: F401 fixtures

from wav2lip_npu import checkpoint
from wav2lip_npu.detectors import Detection
from wav2lip_npu.encode import EncodeOptions, write_video
from wav2lip_npu.models import Wav2Lip
from wav2lip_npu.planes import Colour, Image, Planes

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

# Tests of signals, time limits and several processes: another busy process beside them changes what they see.
ALONE = {
    f"test_{name}"
    for name in "batch batch_command cli cluster crew multi_node overlap preprocess_runs processes train_ranks "
    "train_resume watch".split()
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests that want the machine alone; on another device than the CPU run those about devices."""
    for item in items:
        if item.path.stem in ALONE:
            item.add_marker("alone")
    if PLACE.type == "cpu":
        left_out = [item for item in items if item.get_closest_marker("npu_only")]
    else:
        left_out = [
            item
            for item in items
            if item.get_closest_marker("host_only") or not item.get_closest_marker("any_device")
        ]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in set(left_out)]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Each test draws the same random numbers, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real clips; they are not part of the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"the real clips are not there: {SHARED}")
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
    write_video(face_pictures(50), path, fps=Fraction(25), options=EncodeOptions(crf=10, preset="ultrafast"))
    return path


@pytest.fixture(scope="session")
def faceless_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One second without any face."""
    path = tmp_path_factory.mktemp("clips") / "nobody.mp4"
    grey = Planes.from_image(np.full((240, 320, 3), 128, np.uint8), Colour())
    write_video([grey] * 25, path, fps=Fraction(25), options=EncodeOptions(preset="ultrafast"))
    return path


@pytest.fixture(scope="session")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1.5 s of a buzzing vowel that comes and goes, 16 kHz mono WAV."""
    return write_sound(tmp_path_factory.mktemp("sounds") / "speech.wav", 1.5)


def write_sound(path: Path, seconds: float, rate: int = 16_000) -> Path:
    """A WAV file of a buzz with syllables."""
    import soundfile

    time = np.arange(round(seconds * rate)) / rate
    buzz = np.sign(np.sin(2 * np.pi * 120 * time)) * (0.2 + 0.2 * np.sin(2 * np.pi * 4 * time))
    soundfile.write(path, buzz, rate)
    return path


def face_pictures(count: int) -> Iterator[Planes]:
    """A face of about 110 px that moves to the right, 2 px a frame."""
    import skimage.data

    face = np.ascontiguousarray(skimage.data.astronaut()[20:200, 130:310, ::-1])
    for number in range(count):
        image = np.full((240, 320, 3), 110, np.uint8)
        left = 20 + 2 * number
        image[30:210, left : left + 180] = face[:, : 320 - left]
        yield Planes.from_image(image, Colour())


class SquareDetector:
    """Finds the bounding box of all pixels that are not the background grey."""

    name = "square"
    short_side = 240
    face_side = 96
    views = 1

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, images: Sequence[Image]) -> list[list[Detection]]:
        """One face an image, none when the image is plain."""
        self.calls += 1
        return [self._find(image) for image in images]

    @staticmethod
    def _find(image: Image) -> list[Detection]:
        rows, columns = np.nonzero(np.abs(image[:, :, 1].astype(int) - 110) > 12)
        if len(rows) < 100:
            return []
        box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float32)
        return [Detection(box, 1.0)]
