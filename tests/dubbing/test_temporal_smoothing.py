"""Pauses in audio, and damping of mouths in pauses."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from wav2lip_npu.dubbing.pauses import Pauses, find_pauses, loudness
from wav2lip_npu.dubbing.temporal_smoothing import SilenceDamper
from wav2lip_npu.mel import log_mel

RATE, FPS = 16_000, Fraction(25)


def buzz(seconds: float, level: float) -> np.ndarray:
    """Return a signal similar to a vowel."""
    time = np.arange(round(seconds * RATE)) / RATE
    return level * np.sign(np.sin(2 * np.pi * 120 * time)) * (0.6 + 0.4 * np.sin(2 * np.pi * 5 * time))


def noise(seconds: float, level: float) -> np.ndarray:
    return np.random.default_rng(0).normal(0, level, round(seconds * RATE))


def pauses_of(*parts: np.ndarray) -> Pauses:
    return find_pauses(loudness(log_mel(np.concatenate(parts).astype(np.float32))), 16)


@pytest.mark.parametrize("level", [0.05, 0.3])
@pytest.mark.parametrize("room", [0.0, 1e-4, 1e-3])
def test_pauses_between_speech(level, room):
    is_pause = pauses_of(buzz(1, level), noise(1, room), buzz(1, level))
    assert is_pause[90:150].all(), "the second in the middle"
    assert not is_pause[5:75].any() and not is_pause[165:235].any()


@pytest.mark.parametrize("room", [0.0, 1e-4, 1e-3])
def test_noise_is_one_pause(room):
    assert pauses_of(noise(2, room)).all()


def test_speech_in_noise_is_not_a_pause():
    is_pause = pauses_of(buzz(1, 0.3) + noise(1, 0.02), noise(1, 0.02), buzz(1, 0.3) + noise(1, 0.02))
    assert not is_pause[5:75].any()


def mouths(count: int) -> np.ndarray:
    return np.random.default_rng(1).integers(256, size=(count, 4, 6, 4), dtype=np.uint8)


def damp(damper: SilenceDamper, generated: np.ndarray, cuts: tuple[int, ...] = ()) -> np.ndarray:
    return np.stack([damper(number, mouth, number in cuts) for number, mouth in enumerate(generated)])


def test_mouths_during_speech_are_unchanged():
    generated = mouths(25)
    np.testing.assert_array_equal(
        damp(SilenceDamper(pauses_of(buzz(1.4, 0.2)), FPS, -1), generated), generated
    )


def motion(faces: np.ndarray) -> float:
    return float(np.square(np.diff(faces.astype(float), axis=0)).mean())


@pytest.mark.parametrize("fps", [Fraction(25), Fraction(60000, 1001), Fraction(12)])
def test_motion_in_pauses_is_damped_at_any_frame_rate(fps):
    generated = np.repeat(mouths(40), max(1, round(fps / 12)), axis=0)[: int(2 * fps)]
    damped = damp(SilenceDamper(pauses_of(noise(3, 1e-4)), fps, 0), generated)
    assert motion(damped) < 0.25 * motion(generated)
    np.testing.assert_array_equal(damped[0], generated[0])


@pytest.mark.parametrize("fps", [25, 50])
def test_mouth_closes_at_the_beginning_of_a_pause(fps):
    """C5: the damper does not delay a mouth that the generator closes within 120 ms."""
    generated = np.concatenate(
        [np.full((25, 4, 6, 4), 200, np.uint8), np.full((3 * fps, 4, 6, 4), 100, np.uint8)]
    )
    damper = SilenceDamper(pauses_of(buzz(25 / fps, 0.3), noise(3, 0)), Fraction(fps), 0)
    damped = damp(damper, generated[: 2 * fps])[:, 0, 0, 0]
    np.testing.assert_array_equal(damped, generated[: 2 * fps, 0, 0, 0])


@pytest.mark.parametrize("fps", [25, 50])
def test_mouth_opens_at_the_end_of_a_pause(fps):
    """C5: an opening up to 120 ms before the window of the generator reaches the next word is not damped."""
    opening = 2 * fps - round(0.2 * fps) - 3 * fps // 25 + 1
    generated = np.full((3 * fps, 4, 6, 4), 100, np.uint8)
    generated[opening:] = 200
    damped = damp(SilenceDamper(pauses_of(noise(2, 0), buzz(2, 0.3)), Fraction(fps), 0), generated)
    np.testing.assert_array_equal(damped[:, 0, 0, 0], generated[:, 0, 0, 0])
    generated[opening - 6 :] = 200
    damped = damp(SilenceDamper(pauses_of(noise(2, 0), buzz(2, 0.3)), Fraction(fps), 0), generated)
    assert damped[opening - 6, 0, 0, 0] < 130


def test_steps_late_in_a_pause_are_damped():
    generated = np.concatenate([np.full((20, 4, 6, 4), 200, np.uint8), np.full((40, 4, 6, 4), 100, np.uint8)])
    damped = damp(SilenceDamper(pauses_of(noise(3, 0)), FPS, 0), generated)[:, 0, 0, 0].astype(int)
    assert damped[19] == 200 and damped[20] == 185 and (np.diff(damped[19:]) <= 0).all()
    assert abs(damped[-1] - 100) <= 1


def test_cut_and_missing_face_restart():
    generated = mouths(20)
    damper = SilenceDamper(pauses_of(noise(2, 0)), FPS, 0)
    damped = damp(damper, generated, cuts=(7,))
    np.testing.assert_array_equal(damped[7], generated[7])
    assert (damped[6] != generated[6]).any()
    assert damper(20, None) is None
    np.testing.assert_array_equal(damper(21, generated[0]), generated[0])
