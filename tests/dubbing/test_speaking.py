"""Dubs of whoever speaks in the film, by its own sound: here, a script tells how well each face fits it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from support.faces import write_audio
from support.media_files import chirp
from support.two_people import LEFT, RIGHT, SIZE, PeopleDetector, write_film
from wav2lip_npu.cli.dub import spoken_text
from wav2lip_npu.dubbing.dialogue import Turn
from wav2lip_npu.dubbing.pipeline import dub, dub_many
from wav2lip_npu.dubbing.speakers import dub_speakers
from wav2lip_npu.errors import FaceError, UsageError
from wav2lip_npu.faces.find_faces import FaceOptions, find_faces
from wav2lip_npu.media.video_reader import read_frames
from wav2lip_npu.speaking import watching
from wav2lip_npu.speaking.evidence import Evidence, Threshold
from wav2lip_npu.speaking.film import SpokenSpan

OPTIONS = {"crf": 0, "preset": "ultrafast", "occlusion": "off"}
MIDDLE = SIZE[0] // 2


class ScriptedJudge:
    """Finds that the left face speaks in the first part, and the right one in the second."""

    name, threshold = "script", Threshold(0.06, 0.1)
    parts = (50, 50)
    watched = 0

    def __init__(self, expert, audio, first=0):
        self._first = first
        self._values: dict[int, list[float]] = {}

    def add(self, shown):
        type(self).watched += 1
        number = shown.frame.index + self._first
        for track, box in shown.boxes.items():
            is_left = box[:3:2].mean() < MIDDLE
            speaks = number < self.parts[0] if is_left else self.parts[0] <= number < sum(self.parts)
            self._values.setdefault(track, []).append(0.25 if speaks else -0.02)

    def finish(self):
        return {track: Evidence(0, np.float32(values)) for track, values in self._values.items()}

    def close(self):
        pass


@pytest.fixture
def judge(monkeypatch):
    script = type("Script", (ScriptedJudge,), {})
    monkeypatch.setattr(watching, "SyncJudge", script)
    return script


@pytest.fixture(scope="module")
def people(models):
    return replace(models, detector=PeopleDetector())


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return write_film(tmp_path_factory.mktemp("film") / "film.mp4", 100, audio=chirp(4.0))


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    return write_audio(tmp_path_factory.mktemp("speech") / "speech.wav", 4.0)


def moved(film, out) -> tuple[set[int], set[int]]:
    """Return the numbers of the frames in which the left and the right half differ from the film."""
    luma = [np.stack([frame.yuv.y.astype(int) for frame in read_frames(path)]) for path in (film, out)]
    changes = np.abs(luma[0][: len(luma[1])] - luma[1])
    halves = changes[:, :, :MIDDLE], changes[:, :, MIDDLE:]
    return tuple(set(np.flatnonzero(half.max(axis=(1, 2)) > 2).tolist()) for half in halves)


@pytest.mark.any_device
def test_mouth_of_whoever_speaks_moves(people, film, speech, judge, tmp_path):
    out = tmp_path / "out.avi"
    report = dub(film, speech, out, models=people, face_select="speaking", **OPTIONS)
    left, right = moved(film, out)
    assert set(range(2, 47)) <= left <= set(range(52))
    assert set(range(54, 98)) <= right <= set(range(48, 100))
    first, second = report.spoken
    assert (first.start, first.end, second.end) == (0, pytest.approx(2, abs=0.1), 4)
    assert abs(first.point[0] - LEFT - 48) < 20 > abs(second.point[0] - RIGHT - 48)
    assert min(first.score, second.score) > max(first.threshold, second.threshold)
    assert report.speech_judge == "script"
    assert {reason for _, _, reason in report.unchanged_spans} == {"unsure"}
    assert report.cuts == []


def test_time_in_which_nobody_is_sure_stays_as_filmed(people, film, speech, judge, tmp_path):
    judge.parts = (40, 0)
    out = tmp_path / "out.avi"
    report = dub(film, speech, out, models=people, face_select="speaking", **OPTIONS)
    left, right = moved(film, out)
    assert set(range(2, 37)) <= left <= set(range(60)) and not right
    assert [span.point is None for span in report.spoken] == [False, True]
    assert report.spoken[1].score < report.spoken[1].threshold
    assert report.unchanged_spans[-1][1:] == (99, "unsure")


def test_nobody_at_all_is_an_error(people, film, speech, judge, tmp_path):
    judge.parts = (0, 0)
    with pytest.raises(FaceError, match=r"nobody visible in .* --face_select left"):
        dub(film, speech, tmp_path / "out.avi", models=people, face_select="speaking", **OPTIONS)
    assert not list(tmp_path.iterdir())


def test_all_outputs_of_a_pass_share_the_search(people, film, speech, judge, tmp_path):
    pairs = [(speech, tmp_path / f"{name}.avi") for name in "ab"]
    reports = dub_many(film, pairs, models=people, face_select="speaking", duration=1, **OPTIONS)
    assert judge.watched == 100  # the film, once
    assert reports[0].spoken == reports[1].spoken != []


def test_section_and_frame_rate(people, film, speech, judge, tmp_path):
    """Spans count from the beginning of the film, faces are those of that time, and four seconds around it are watched."""
    out = tmp_path / "out.avi"
    report = dub(
        film, speech, out, models=people, face_select="speaking", start=1, duration=2, fps=30, **OPTIONS
    )
    assert (report.frames, judge.watched) == (60, 100)
    assert [span.start for span in report.spoken] == [1, pytest.approx(2, abs=0.1)]
    (gap,) = report.unchanged_spans
    assert gap[0] == pytest.approx(30, abs=3) and gap[1] - gap[0] < 5


@pytest.mark.any_device
def test_each_turn_finds_its_face(people, film, speech, judge, tmp_path):
    out = tmp_path / "out.avi"
    turns = [Turn("anna", 0.2, 1.6), Turn("ben", 2.4, 3.4)]
    report = dub_speakers(
        film, ["anna@auto", "ben@auto"], out, audio=speech, turns=turns, models=people, **OPTIONS
    )
    left, right = moved(film, out)
    assert set(range(6, 39)) <= left <= set(range(1, 45))
    assert set(range(61, 84)) <= right <= set(range(55, 90))
    assert [(span.who, span.start, span.end) for span in report.spoken] == [
        ("anna", 0.2, 1.6),
        ("ben", 2.4, 3.4),
    ]
    assert {reason for one in report.speakers for *_, reason in one.unchanged_spans} == {"listening"}


def test_faces_of_a_diarisation_need_no_names(people, film, speech, judge, tmp_path):
    rttm = tmp_path / "talk.rttm"
    rttm.write_text(
        "".join(f"SPEAKER f 1 {at} 1.5 <NA> <NA> {name} <NA> <NA>\n" for at, name in ((0, "S1"), (2.2, "S2")))
    )
    out, films = tmp_path / "out.avi", {"audio": speech, "rttm": rttm}
    report = dub_speakers(film, [], out, **films, models=people, face_select="speaking", **OPTIONS)
    assert [(span.who, span.point[0] < MIDDLE) for span in report.spoken] == [("S1", True), ("S2", False)]
    assert [one.face for one in report.speakers] == ["auto", "auto"]


def test_turn_without_a_sure_face_stays_as_filmed(people, film, speech, judge, tmp_path):
    out = tmp_path / "out.avi"
    judge.parts = (50, 0)
    turns = [Turn("anna", 0, 2), Turn("ben", 2, 4)]
    report = dub_speakers(
        film, ["anna@auto", "ben@auto"], out, audio=speech, turns=turns, models=people, **OPTIONS
    )
    assert not moved(film, out)[1]
    assert report.speakers[1].dubbed_frames == 0
    assert "unsure" in {reason for *_, reason in report.speakers[1].unchanged_spans}


def test_other_rules_stand_beside_auto(people, film, speech, judge, tmp_path):
    out = tmp_path / "out.avi"
    turns = [Turn("anna", 0, 1.8), Turn("ben", 2.2, 4)]
    dub_speakers(film, ["anna@auto", "ben@right"], out, audio=speech, turns=turns, models=people, **OPTIONS)
    left, right = moved(film, out)
    assert set(range(2, 44)) <= left <= set(range(50)) and set(range(56, 98)) <= right <= set(range(50, 100))


def test_film_without_sound(people, speech, tmp_path):
    film = write_film(tmp_path / "film.mp4", 10)
    with pytest.raises(UsageError, match=r"film\.mp4 has no sound.*--face_select left"):
        dub(film, speech, tmp_path / "out.avi", models=people, face_select="speaking", **OPTIONS)
    with pytest.raises(UsageError, match=r"film\.mp4 has no sound.*@left"):
        dub_speakers(film, [f"anna={speech}@auto"], tmp_path / "out.avi", models=people, **OPTIONS)


def test_speaking_is_only_for_dubs(film):
    with pytest.raises(UsageError, match="--face_select speaking"):
        list(find_faces(read_frames(film), PeopleDetector(), FaceOptions(face_select="speaking")))


def test_refused_time_is_one_line_of_the_log():
    span = SpokenSpan(start=0, end=2, who=None, point=(1, 2), score=0.3, threshold=0.1)
    refused = replace(span, start=2.5, end=5, point=None)
    assert "2.5 s stay as filmed, first 2.5-5 s" in spoken_text([span, refused])
    assert "filmed" not in spoken_text([span])
