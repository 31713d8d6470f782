"""A film that was watched: its speakers, and the faces to dub."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from wav2lip_npu.faces.shot_faces import ShotFrame
from wav2lip_npu.media.video_reader import Frame
from wav2lip_npu.speaking.choice import Choice, Shot
from wav2lip_npu.speaking.evidence import Evidence, Threshold
from wav2lip_npu.speaking.film import Film, watch

THRESHOLD = Threshold(0.08, 0.1)
BOXES = {0: [10.0, 20, 50, 60], 1: [200.0, 20, 240, 60], 2: [90.0, 20, 130, 60]}


def film(*shots: tuple[int, int, tuple[int, ...]], first: int = 0) -> Film:
    end = shots[-1][1]
    boxes = {
        track: (np.arange(low, high), np.tile(np.float32(BOXES[track]), (high - low, 1)))
        for low, high, tracks in shots
        for track in tracks
    }
    return Film("judge", THRESHOLD, first, [Shot(*shot[:2], {}) for shot in shots], np.ones(end, bool), boxes)


def planned(film: Film, *spoken: tuple[int, int, int | None]) -> list[tuple[int, int, float]]:
    """Return first frame, end and left edge of the planned spans, at 25 per second."""
    choices = [Choice(*one, 0.2, 0.1) for one in spoken]
    plan = film.plan(choices, Fraction(25))
    spans, now = [], None
    for number in range(film.first + len(film.speech) + 1):
        box = plan.box(number)
        if plan.number(number) != now:
            now = plan.number(number)
            if box is not None:
                spans.append((number, number, float(box[0])))
        if box is not None:
            spans[-1] = spans[-1][0], number + 1, float(box[0])
    return spans


def test_speaker_is_followed_beyond_the_speech():
    assert planned(film((0, 200, (0, 1))), (50, 100, 0)) == [(38, 112, 10)]
    assert planned(film((0, 60, (0,)), (60, 200, (1,))), (55, 58, 0), (60, 190, 1)) == [
        (43, 60, 10),
        (60, 200, 200),
    ]


def test_short_silence_of_one_face_is_spanned():
    both = film((0, 300, (0, 1)))
    assert planned(both, (50, 100, 0), (149, 200, 0)) == [(38, 212, 10)]
    assert planned(both, (50, 100, 0), (160, 200, 0)) == [(38, 112, 10), (148, 212, 10)]


def test_two_faces_in_a_shot_have_a_gap_between_them():
    both = film((0, 200, (0, 1)))
    assert planned(both, (50, 100, 0), (100, 150, 1)) == [(38, 100, 10), (102, 162, 200)]
    (_, end, _), (start, _, _) = planned(both, (50, 100, 0), (110, 150, 1))
    assert 100 <= end <= 105 and 104 <= start <= 110 and start - end == 2


def test_refused_time_has_no_face():
    both = film((0, 200, (0, 1)))
    assert planned(both, (0, 60, 0), (60, 120, None), (120, 200, 1)) == [(0, 60, 10), (120, 200, 200)]
    assert planned(both, (0, 60, 0), (60, 90, None), (90, 150, 0)) == [(0, 60, 10), (90, 162, 10)]


def test_film_from_the_middle():
    later = film((0, 100, (0,)), first=250)
    assert planned(later, (20, 60, 0)) == [(258, 322, 10)]
    (span,) = later.spans([Choice(20, 60, 0, 0.2345, 0.1)], "anna")
    assert (span.start, span.end, span.who, span.point, span.score) == (10.8, 12.4, "anna", (30, 40), 0.234)
    assert later.choices_of([(Fraction(0), Fraction(5))]) == []


def test_watching_keeps_the_tracks_of_each_shot():
    class Judge:
        name, threshold = "judge", THRESHOLD
        closed = False

        def add(self, shown):
            pass

        def finish(self):
            return {
                0: Evidence(0, np.full(50, 0.3, np.float32)),
                2: Evidence(50, np.full(42, 0.3, np.float32)),
            }

        def close(self):
            self.closed = True

    def frames():
        for number in range(100):
            track = 0 if number < 50 else 2
            boxes = {track: np.float32(BOXES[track]), 1: np.float32(BOXES[1])}
            yield ShotFrame(Frame(number, None, number), int(number >= 50), boxes)

    judge = Judge()
    seen = watch(frames(), judge, np.ones(80, bool), 0)
    assert judge.closed
    assert [(shot.first, shot.end, list(shot.tracks)) for shot in seen.shots] == [
        (0, 50, [0]),
        (50, 100, [2]),
    ]
    assert seen.speech.sum() == 80 and len(seen.speech) == 100
    assert [(one.first, one.end, one.track) for one in seen.choices()] == [(0, 50, 0), (50, 80, 2)]


def test_judge_is_closed_if_the_film_cannot_be_read():
    class Judge:
        name, threshold, closed = "judge", THRESHOLD, False

        def close(self):
            self.closed = True

    def frames():
        raise OSError
        yield

    judge = Judge()
    with pytest.raises(OSError):
        watch(frames(), judge, np.ones(1, bool), 0)
    assert judge.closed
