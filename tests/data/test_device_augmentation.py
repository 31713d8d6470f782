"""Augmentation on the device: the same changes as by OpenCV for the same random numbers."""

from __future__ import annotations

from dataclasses import asdict

import cv2
import numpy as np
import pytest
import torch

from support.devices import DEVICE
from wav2lip_npu.data.amounts import FACE_RANDOMS, MEL_AMOUNTS, WIDTHS, face_amounts, mel_amounts
from wav2lip_npu.data.augmentation import Augmentation
from wav2lip_npu.data.clip_layout import FACE_SIZE, WINDOW
from wav2lip_npu.data.device_augmentation import DeviceAugmentation

pytestmark = pytest.mark.any_device

FACES = {
    "flip": 0.5,
    "stretch": 0.1,
    "shift": 0.05,
    "turn": 8,
    "bend": 0.03,
    "colour": 0.3,
    "gamma": 0.4,
    "blur": 1.0,
}
MELS = {"formants": 0.1, "loudness": 8.0, "tilt": 8.0}
ROWS = 4


class Given:
    """A random generator that returns given numbers in [0, 1), scaled to the wanted range."""

    def __init__(self, *parts: np.ndarray) -> None:
        self._numbers = list(np.concatenate([[], *parts]))

    def random(self) -> float:
        return self._numbers.pop(0)

    def uniform(self, low, high, size=None):
        count = 1 if size is None else int(np.prod(size))
        drawn = low + (high - low) * np.array([self._numbers.pop(0) for _ in range(count)])
        return drawn[0] if size is None else drawn.reshape(size)


def smooth_windows(count: int = WINDOW) -> np.ndarray:
    """Return windows uint8 [ROWS, count, S, S, 3] without sharp edges, at which rounding is large."""
    small = np.random.default_rng(0).integers(30, 220, (ROWS * count, 10, 10, 3)).astype(np.uint8)
    faces = [cv2.resize(each, (FACE_SIZE, FACE_SIZE), interpolation=cv2.INTER_CUBIC) for each in small]
    return np.stack(faces).reshape(ROWS, count, FACE_SIZE, FACE_SIZE, 3)


def on_device(
    options: Augmentation, windows: np.ndarray, random: np.ndarray, changed=None, **place
) -> np.ndarray:
    amounts = face_amounts(options, random, np.ones(len(windows), bool) if changed is None else changed)
    augmentation = DeviceAugmentation(options, DEVICE)
    faces, rows = torch.from_numpy(windows).to(DEVICE), torch.from_numpy(amounts).to(DEVICE)
    return augmentation.faces(faces, rows, **place).cpu().numpy()


def drawn(rows: int = ROWS) -> np.ndarray:
    return np.random.default_rng(1).random((rows, FACE_RANDOMS))


def given(options: Augmentation, row: np.ndarray) -> tuple[Given, Given]:
    """Return generators for `Augmentation.faces` and `degrade`, which draw only for the changes in use."""
    flip, stretch, turn, shift, bends, gains, gamma, blur, *_, jpeg = np.split(row, np.cumsum(WIDTHS)[:-1])
    geometry = options.flip or options.stretch or options.shift or options.turn or options.bend
    parts = [flip, stretch, turn, shift, bends] if geometry else []
    parts += [gains, gamma] if options.colour or options.gamma else []
    return Given(*parts, *([blur] if options.blur else [])), Given(jpeg)


@pytest.mark.parametrize(
    "names", [*([name] for name in FACES), list(FACES)], ids=lambda names: "-".join(names)
)
def test_faces_match_those_of_opencv(names):
    options, windows, random = (
        Augmentation(**{name: FACES[name] for name in names}),
        smooth_windows(),
        drawn(),
    )
    actual = on_device(options, windows, random).astype(int)
    for row in range(ROWS):
        (expected,) = options.faces(given(options, random[row])[0], windows[row])
        difference = np.abs(actual[row] - expected)
        assert difference.mean() < 0.6
        assert difference.max() <= 10
    assert (actual != windows).any()


def test_jpeg_matches_that_of_opencv():
    options, windows, random = Augmentation(jpeg=1), smooth_windows(2 * WINDOW), drawn()
    actual = on_device(options, windows, random, degraded=WINDOW)
    np.testing.assert_array_equal(actual[:, :WINDOW], windows[:, :WINDOW])
    changed = 0
    for row in range(ROWS):
        expected = options.degrade(given(options, random[row])[1], windows[row, WINDOW:])
        difference = np.abs(actual[row, WINDOW:].astype(int) - expected)
        assert difference.mean() < 1.5
        assert difference.max() <= 16
        changed += bool((expected != windows[row, WINDOW:]).any())
    assert 0 < changed < ROWS  # half of the samples


def test_noise():
    options, windows, random = (
        Augmentation(noise=6),
        np.full((ROWS, WINDOW, 96, 96, 3), 128, np.uint8),
        drawn(),
    )
    levels = np.maximum(0, 12 * random[:, -3] - 6)
    noise = on_device(options, windows, random).astype(float) - 128
    np.testing.assert_allclose(noise.std(axis=(1, 2, 3, 4)), levels, atol=0.3)
    assert np.abs(noise.mean()) < 0.1


def test_mels_match_those_of_the_host():
    options, random = Augmentation(**MELS), np.random.default_rng(2).random((ROWS, MEL_AMOUNTS))
    mels = np.random.default_rng(3).uniform(-4, 4, (ROWS, 6, 80, 16)).astype(np.float32)
    amounts = torch.from_numpy(mel_amounts(options, random, np.ones(ROWS, bool))).to(DEVICE)
    actual = (
        DeviceAugmentation(options, DEVICE).mels(torch.from_numpy(mels).to(DEVICE), amounts).cpu().numpy()
    )
    for row in range(ROWS):
        np.testing.assert_allclose(actual[row], options.mels(Given(random[row]), mels[row]), atol=1e-3)


def test_unchanged_rows_keep_their_bits():
    options = Augmentation(**FACES, **MELS, noise=5, jpeg=0.7)
    windows = np.random.default_rng(4).integers(256, size=(ROWS, WINDOW, 96, 96, 3), dtype=np.uint8)
    changed = np.arange(ROWS) % 2 == 1
    actual = on_device(options, windows, drawn(), changed)
    assert [np.array_equal(*pair) for pair in zip(actual, windows, strict=True)] == (~changed).tolist()
    mels = np.random.default_rng(5).uniform(-4, 4, (ROWS, 1, 80, 16)).astype(np.float32)
    amounts = mel_amounts(options, np.random.default_rng(6).random((ROWS, MEL_AMOUNTS)), changed)
    rows = DeviceAugmentation(options, DEVICE).mels(
        *(torch.from_numpy(x).to(DEVICE) for x in (mels, amounts))
    )
    assert [np.array_equal(*pair) for pair in zip(rows.cpu().numpy(), mels, strict=True)] == (
        ~changed
    ).tolist()


def test_amounts_have_the_distribution_of_the_host():
    options = Augmentation(**FACES, noise=6, jpeg=0.7)
    rows = face_amounts(options, np.random.default_rng(7).random((4000, FACE_RANDOMS)), np.ones(4000, bool))
    determinant = rows[:, 0] * rows[:, 4] - rows[:, 1] * rows[:, 3]
    assert np.mean(determinant < 0) == pytest.approx(asdict(options)["flip"], abs=0.03)
    assert np.abs(np.log(np.abs(determinant))).max() == pytest.approx(0.2, abs=0.02)
    sigma, noise, jpeg = rows[:, -4], rows[:, -3], rows[:, -1]
    for amounts, maximum in ((sigma, 1.0), (noise, 6.0)):
        assert np.mean(amounts == 0) == pytest.approx(0.5, abs=0.03)
        assert amounts.max() == pytest.approx(maximum, abs=0.01)
    assert np.mean(jpeg == 0) == pytest.approx(0.5, abs=0.03)
    assert jpeg.max() == pytest.approx(5000 // 32)
