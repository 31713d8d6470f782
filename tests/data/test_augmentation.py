"""Augmentation: what it changes and keeps, and that all faces of a sample change identically."""

from __future__ import annotations

from dataclasses import fields, replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wav2lip_npu.data.augmentation import UNCHANGED, Augmentation
from wav2lip_npu.data.clip_layout import FACE_SIZE
from wav2lip_npu.errors import UsageError
from wav2lip_npu.mel import DEFAULT_MEL

ALL = Augmentation(
    flip=0.5,
    stretch=0.1,
    shift=0.05,
    turn=8,
    bend=0.03,
    colour=0.3,
    gamma=0.4,
    blur=1,
    noise=6,
    jpeg=0.7,
    formants=0.1,
    loudness=8,
    tilt=8,
)
GEOMETRY = ("flip", "stretch", "shift", "turn", "bend")


def face(seed: int = 0) -> np.ndarray:
    """Return a smooth image of many colours with a bright square off every axis of symmetry."""
    small = np.random.default_rng(seed).integers(40, 200, (6, 6, 3)).astype(np.uint8)
    found = cv2.resize(small, (FACE_SIZE, FACE_SIZE), interpolation=cv2.INTER_CUBIC)
    found[60:70, 20:30] = 250
    return found


def square_of(image: np.ndarray) -> tuple[float, float]:
    """Return the centre x, y of the bright square."""
    rows, columns = np.nonzero((image > 235).all(axis=-1))
    return float(columns.mean()), float(rows.mean())


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_no_augmentation_changes_nothing_and_draws_nothing():
    draw = random()
    stack = np.stack([face(), face(1)])
    mels = random(1).uniform(-4, 4, (2, 80, 16)).astype(np.float32)
    np.testing.assert_array_equal(UNCHANGED.faces(draw, stack)[0], stack)
    np.testing.assert_array_equal(UNCHANGED.degrade(draw, stack), stack)
    np.testing.assert_array_equal(UNCHANGED.mels(draw, mels), mels)
    assert draw.random() == random().random()


def test_untouched_share():
    changes = replace(ALL, untouched=0.25)
    draw = random()
    left = [changes.drawn(draw) == UNCHANGED for _ in range(1000)]
    assert 0.2 < np.mean(left) < 0.3
    assert ALL.drawn(random()) == ALL


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), shape=st.sampled_from([(1,), (5,), (1, 5), (2, 3)]))
def test_all_faces_of_a_sample_change_identically(seed, shape):
    """Equal faces stay equal within a stack and between stacks, so that only the mouth moves."""
    stack = np.broadcast_to(face(), (*shape, FACE_SIZE, FACE_SIZE, 3)).copy()
    one, other = ALL.faces(random(seed), stack, stack[..., :1, :, :, :])
    assert one.shape == stack.shape and one.dtype == np.uint8
    np.testing.assert_array_equal(one, np.broadcast_to(one.reshape(-1, *one.shape[-3:])[0], one.shape))
    np.testing.assert_array_equal(other, one[..., :1, :, :, :])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_augmentation_is_a_function_of_its_random_generator(seed):
    stack = np.stack([face(), face(1)])
    for make in (lambda r: ALL.faces(r, stack)[0], lambda r: ALL.degrade(r, stack)):
        np.testing.assert_array_equal(make(random(seed)), make(random(seed)))


def test_input_is_not_modified():
    stack, mels = np.stack([face()] * 3), np.zeros((3, 80, 16), np.float32)
    stack.flags.writeable = mels.flags.writeable = False
    for seed in range(20):
        ALL.faces(random(seed), stack)
        ALL.degrade(random(seed), stack)
        ALL.mels(random(seed), mels)


def test_flip():
    flipped = Augmentation(flip=1.0).faces(random(), face()[None])[0][0]
    np.testing.assert_array_equal(flipped, face()[:, ::-1])
    halves = [Augmentation(flip=0.5).faces(random(seed), face()[None])[0][0] for seed in range(200)]
    assert 70 < sum(np.array_equal(half, face()) for half in halves) < 130


@pytest.mark.parametrize(
    ("name", "amount", "most_px"),
    [("shift", 0.1, 10), ("turn", 20, 17), ("stretch", 0.2, 8), ("bend", 0.05, 8)],
)
def test_geometry_stays_within_its_limits(name, amount, most_px):
    before = np.array(square_of(face()))
    change = replace(UNCHANGED, **{name: amount})
    moved = [np.abs(square_of(change.faces(random(s), face()[None])[0][0]) - before).max() for s in range(60)]
    assert 0.3 * most_px < max(moved) <= most_px


def test_colour_and_gamma_keep_the_geometry():
    change = Augmentation(colour=0.3, gamma=0.4)
    flat = np.full((1, FACE_SIZE, FACE_SIZE, 3), (60, 100, 140), np.uint8)
    seen = np.stack([change.faces(random(seed), flat)[0][0, 0, 0] for seed in range(200)]).astype(int)
    assert (seen.std(axis=0) > 10).all()
    mean = seen.mean(axis=0)
    assert (np.abs(mean - (60, 100, 140)) < 15).all(), "as often lighter as darker"
    assert np.ptp(change.faces(random(3), flat)[0], axis=(0, 1, 2)).max() == 0


def test_blur_noise_and_jpeg_apply_half_the_time():
    stack = face()[None]
    for make in (
        lambda r: Augmentation(blur=2).faces(r, stack)[0],
        lambda r: Augmentation(noise=10).degrade(r, stack),
        lambda r: Augmentation(jpeg=1).degrade(r, stack),
    ):
        same = sum(np.array_equal(make(random(seed)), stack) for seed in range(200))
        assert 60 < same < 140


def test_jpeg_stays_recognisable():
    for seed in range(20):
        degraded = Augmentation(jpeg=1.0).degrade(random(seed), face()[None])[0].astype(int)
        assert np.abs(degraded - face()).mean() < 25


def test_formants_shift_a_tone():
    mels = np.full((1, 80, 16), -4, np.float32)
    mels[:, 40] = 4
    rows = [int(Augmentation(formants=0.2).mels(random(seed), mels)[0, :, 0].argmax()) for seed in range(100)]
    assert min(rows) >= 32 and max(rows) <= 50 and min(rows) < 35 and max(rows) > 46


def test_loudness_is_in_decibels_and_clipped():
    """A range of 8 in a mel is 100 dB."""
    mels = np.zeros((1, 80, 16), np.float32)
    moved = [Augmentation(loudness=10).mels(random(seed), mels) for seed in range(100)]
    levels = np.array([sample[0, 0, 0] for sample in moved])
    assert all(np.ptp(sample) == 0 for sample in moved)
    assert 0.7 < np.abs(levels).max() <= 0.8 and levels.min() < 0 < levels.max()
    loud = np.full((1, 80, 16), DEFAULT_MEL.max_abs, np.float32)
    for seed in range(20):
        assert (
            np.abs(Augmentation(loudness=40, tilt=40).mels(random(seed), loud)).max() <= DEFAULT_MEL.max_abs
        )


def test_tilt_keeps_the_middle():
    mels = np.zeros((1, 80, 16), np.float32)
    for seed in range(20):
        tilted = Augmentation(tilt=10).mels(random(seed), mels)[0, :, 0]
        assert abs(tilted[39] + tilted[40]) < 1e-6 and abs(tilted[0] + tilted[79]) < 1e-6
        assert tilted.dtype == np.float32


@pytest.mark.parametrize("name", [sample.name for sample in fields(Augmentation)])
@pytest.mark.parametrize("value", [-0.1, 1e9, float("nan")])
def test_amounts_out_of_range(name, value):
    with pytest.raises(UsageError, match=f"--{name} .* Pass "):
        replace(UNCHANGED, **{name: value})
