"""Who speaks when: by the evidence for each face, with a hysteresis, or nobody."""

from __future__ import annotations

import numpy as np
import pytest

from wav2lip_npu.speaking.choice import Choice, Shot, choose_for_turn, choose_without_turns
from wav2lip_npu.speaking.evidence import Evidence, Threshold

THRESHOLD = Threshold(0.06, 0.1)
LEFT, RIGHT = 4, 7


def shot(left: np.ndarray, right: np.ndarray, first: int = 0) -> Shot:
    evidence = {LEFT: left, RIGHT: right}
    tracks = {track: Evidence(first, values.astype(np.float32)) for track, values in evidence.items()}
    return Shot(first, first + len(left), tracks)


def noisy(*parts: tuple[float, int]) -> np.ndarray:
    """Return evidence of these means over these numbers of frames."""
    means = np.concatenate([np.full(count, mean) for mean, count in parts])
    return means + np.random.default_rng(len(means)).normal(0, 0.05, len(means))


def times(choices: list[Choice]) -> list[tuple[int, int, int | None]]:
    return [(choice.first, choice.end, choice.track) for choice in choices]


def test_speakers_alternate():
    given = shot(noisy((0.2, 60), (0.0, 60)), noisy((0.0, 60), (0.2, 60)))
    (a_first, a_end, a), (b_first, b_end, b) = times(
        choose_without_turns(given, np.ones(120, bool), THRESHOLD)
    )
    assert (a, b) == (LEFT, RIGHT)
    assert (a_first, b_end) == (0, 120)
    assert a_end == b_first == pytest.approx(60, abs=4)


def test_short_interruption_changes_nothing():
    given = shot(noisy((0.2, 50), (0.0, 8), (0.2, 50)), noisy((0.0, 50), (0.3, 8), (0.0, 50)))
    assert times(choose_without_turns(given, np.ones(108, bool), THRESHOLD)) == [(0, 108, LEFT)]


def test_nobody_is_refused_with_the_best_score():
    given = shot(noisy((0.02, 75)), noisy((0.04, 75)))
    (choice,) = choose_without_turns(given, np.ones(75, bool), THRESHOLD)
    assert choice.track is None
    assert choice.score == pytest.approx(0.04, abs=0.02)
    assert choice.threshold == pytest.approx(0.06 + 0.1 / 3)


def test_silence_belongs_to_nobody_at_the_ends_and_to_the_speaker_inside():
    speech = np.ones(100, bool)
    speech[:20] = speech[40:50] = speech[90:] = False
    given = shot(noisy((0.2, 100)), noisy((0.0, 100)))
    assert times(choose_without_turns(given, speech, THRESHOLD)) == [(20, 90, LEFT)]
    assert choose_without_turns(given, np.zeros(100, bool), THRESHOLD) == []


def test_turn_has_one_face_in_each_shot():
    shots = [
        shot(noisy((0.0, 50)), noisy((0.15, 50))),
        shot(noisy((0.2, 50)), noisy((0.1, 50)), first=50),
        shot(noisy((0.0, 50)), noisy((0.0, 50)), first=100),
    ]
    chosen = choose_for_turn(10, 140, shots, np.ones(150, bool), THRESHOLD)
    assert times(chosen) == [(10, 50, RIGHT), (50, 100, LEFT), (100, 140, None)]


def test_less_evidence_is_needed_of_a_long_turn():
    given = shot(noisy((0.08, 500)), noisy((0.0, 500)))
    speech = np.ones(500, bool)
    assert choose_for_turn(0, 400, [given], speech, THRESHOLD)[0].track == LEFT
    assert choose_for_turn(0, 30, [given], speech, THRESHOLD)[0].track is None


def test_evidence_that_is_unknown_counts_as_none():
    values = np.full(100, np.nan)
    values[:10] = 0.3
    given = shot(values, np.full(100, np.nan))
    speech = np.ones(100, bool)
    (choice,) = choose_for_turn(0, 100, [given], speech, THRESHOLD)
    assert (choice.track, choice.score) == (None, pytest.approx(0.03))
    (choice,) = choose_for_turn(50, 100, [given], speech, THRESHOLD)
    assert (choice.track, choice.score) == (None, None)
