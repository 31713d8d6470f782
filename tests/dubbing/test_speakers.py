"""Several speakers in one video: each mouth moves with its own audio, and only while its owner speaks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from support.faces import write_audio
from support.media_files import chirp, write_wav
from support.two_people import LEFT, RIGHT, SIDE, SIZE, PeopleDetector, both, faces, write_film
from wav2lip_npu.cli.main import main
from wav2lip_npu.dubbing.dialogue import Speaker, Turn
from wav2lip_npu.dubbing.pipeline import dub
from wav2lip_npu.dubbing.speakers import dub_speakers
from wav2lip_npu.errors import FaceError, UsageError, Wav2LipError
from wav2lip_npu.media.audio_reader import read_audio
from wav2lip_npu.media.video_reader import read_frames

OPTIONS = {"crf": 0, "preset": "ultrafast", "occlusion": "off"}
MIDDLE = SIZE[0] // 2


@pytest.fixture(scope="module")
def people(models):
    return replace(models, detector=PeopleDetector())


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    return write_film(tmp_path_factory.mktemp("film") / "film.mp4", 50)


@pytest.fixture(scope="module")
def anna(tmp_path_factory) -> Path:
    return write_audio(tmp_path_factory.mktemp("anna") / "anna.wav", 2.0)


@pytest.fixture(scope="module")
def ben(tmp_path_factory) -> Path:
    return write_wav(tmp_path_factory.mktemp("ben") / "ben.wav", chirp(2.0))


def halves(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the luma of the left and of the right half of each frame."""
    luma = np.stack([frame.yuv.y.astype(int) for frame in read_frames(path)])
    return luma[:, :, :MIDDLE], luma[:, :, MIDDLE:]


def moved(film: Path, out: Path) -> tuple[list[int], list[int]]:
    """Return the numbers of the frames in which the left and the right half differ from the film."""
    pairs = zip(halves(film), halves(out), strict=True)
    changes = [np.abs(a[: len(b)] - b).reshape(len(b), -1).max(axis=1) for a, b in pairs]
    return tuple(np.flatnonzero(change > 2).tolist() for change in changes)


@pytest.mark.any_device
def test_only_the_speakers_mouth_moves(people, film, anna, ben, tmp_path):
    turns = [Turn("anna", 0.2, 0.8), Turn("ben", 1.0, 1.6, str(ben))]
    out = tmp_path / "out.avi"
    speakers = [f"anna={anna}@left", "ben@right"]
    report = dub_speakers(film, speakers, out, turns=turns, models=people, **OPTIONS)
    left, right = moved(film, out)
    assert set(range(6, 19)) <= set(left) <= set(range(1, 24))
    assert set(range(26, 39)) <= set(right) <= set(range(21, 44))
    told = {one.name: one for one in report.speakers}
    assert told["anna"].turns == [(0.2, 0.8)]
    assert told["ben"].turns == [(1.0, 1.6)]
    assert {reason for _, _, reason in told["anna"].unchanged_spans} == {"listening"}
    assert told["anna"].dubbed_frames + sum(b - a + 1 for a, b, _ in told["anna"].unchanged_spans) == 40
    assert (report.frames, report.told_apart_by) == (40, "likeness")


def test_each_mouth_is_that_of_a_dub_of_one_face(people, film, tmp_path):
    anna = write_audio(tmp_path / "anna.wav", 1.0)
    ben = write_wav(tmp_path / "ben.wav", chirp(1.0))
    outs = [tmp_path / f"{name}.avi" for name in ("both", "left", "right")]
    turns = [Turn("a", 0, None), Turn("b", 0, None)]
    dub_speakers(film, [f"a={anna}@left", f"b={ben}@right"], outs[0], turns=turns, models=people, **OPTIONS)
    for out, audio, side in ((outs[1], anna, "left"), (outs[2], ben, "right")):
        dub(film, audio, out, models=people, face_select=side, **OPTIONS)
    left, right = halves(outs[0])  # apart from the last frames, whose windows reach beyond the audio
    assert np.abs(left - halves(outs[1])[0])[:17].max() <= 2
    assert np.abs(right - halves(outs[2])[1])[:17].max() <= 2
    assert np.abs(left - halves(film)[0][: len(left)]).max() > 10


def test_heard_is_the_sum_of_the_voices(people, film, anna, ben, tmp_path):
    out = tmp_path / "out.avi"
    turns = [Turn("a", 0.2, 1.0), Turn("b", 1.0, 1.8, str(ben), offset=0.5)]
    dub_speakers(film, [f"a={anna}@left", "b@right"], out, turns=turns, models=people, **OPTIONS)
    sound, a, b = read_audio(out), read_audio(anna), read_audio(ben)
    assert len(sound) == 28_800
    assert not sound[:3200].any()
    np.testing.assert_allclose(sound[3500:15_700], a[3500:15_700], atol=2e-3)
    np.testing.assert_allclose(sound[16_300:28_500], b[8300:20_500], atol=2e-3)


def test_mixed_audio_drives_the_mouth_of_the_turn(people, film, anna, tmp_path):
    rttm = tmp_path / "talk.rttm"
    rttm.write_text(
        "SPKR-INFO talk 1 <NA> <NA> <NA> unknown S1 <NA> <NA>\n"
        "SPEAKER talk 1 0.20 0.60 <NA> <NA> S1 <NA> <NA>\n\n"
        "SPEAKER talk 1 1.20 0.50 <NA> <NA> S2 <NA> <NA>\n"
    )
    out = tmp_path / "out.avi"
    report = dub_speakers(film, [], out, audio=anna, rttm=rttm, models=people, **OPTIONS)
    left, right = moved(film, out)
    assert max(left) < min(right)
    np.testing.assert_allclose(read_audio(out), read_audio(anna), atol=1e-3)
    assert [one.name for one in report.speakers] == ["S1", "S2"]


def test_silence_of_a_whole_track_is_listening(people, film, tmp_path):
    """Without a table, a speaker listens while another speaks, and stays dubbed in a common pause."""
    speech, silent = read_audio(write_audio(tmp_path / "s.wav", 0.5)), np.zeros(24_000, np.float32)
    first, second = np.append(speech, silent), np.append(silent, speech)
    a, b = write_wav(tmp_path / "a.wav", first), write_wav(tmp_path / "b.wav", second)
    report = dub_speakers(film, [f"a={a}", f"b={b}"], tmp_path / "o.avi", models=people, **OPTIONS)
    one, other = report.speakers
    assert [round(time, 1) for time in (*one.turns[0], *other.turns[0])] == [0.0, 0.5, 1.5, 2.0]
    assert len(one.turns) == len(other.turns) == 1


def test_still_listeners_close_their_mouths(people, film, anna, tmp_path):
    out = tmp_path / "out.avi"
    turns = [Turn("a", 0, 0.4), Turn("b", 0.4, 2)]
    speakers = [f"a={anna}@left", f"b={anna}@right"]
    report = dub_speakers(film, speakers, out, turns=turns, listeners="still", models=people, **OPTIONS)
    assert [one.dubbed_frames for one in report.speakers] == [50, 50]
    assert report.unchanged_spans == []


def test_faces_are_followed_across_a_cut(people, anna, tmp_path):
    """After the cut both have changed sides, and each is told by their look."""

    def places(frame: int) -> dict[str, int]:
        return both(frame) if frame < 25 else {"ben": LEFT, "anna": RIGHT}

    film = write_film(tmp_path / "film.mp4", 50, places)
    out = tmp_path / "out.avi"
    dub_speakers(film, [f"a={anna}@left"], out, models=people, **OPTIONS)
    left, right = moved(film, out)
    assert set(range(2, 25)) <= set(left)
    assert max(left) < 25 <= min(right)
    assert set(range(27, 48)) <= set(right)


def test_other_faces_are_left_alone(people, film, anna, tmp_path):
    """A speaker who is not seen is not given somebody else's face."""

    def places(frame: int) -> dict[str, int]:
        return {name: x for name, x in both(frame).items() if name == "ben" or frame < 25}

    film = write_film(tmp_path / "film.mp4", 50, places)
    report = dub_speakers(film, [f"a={anna}@left"], tmp_path / "out.avi", models=people, **OPTIONS)
    left, right = moved(film, tmp_path / "out.avi")
    assert left
    assert not right
    assert (25, 49, "no_face") in report.speakers[0].unchanged_spans


@pytest.mark.parametrize("rule", ["photo", "point"])
def test_face_is_told_by(people, film, anna, tmp_path, rule):
    photo = tmp_path / "ben@home.png"
    cv2.imwrite(str(photo), cv2.copyMakeBorder(faces()["ben"], 20, 20, 20, 20, 0, value=(110, 110, 110)))
    text = photo if rule == "photo" else f"{RIGHT + SIDE // 2},70@1.2"
    dub_speakers(film, [f"b={anna}@{text}"], tmp_path / "out.avi", models=people, **OPTIONS)
    left, right = moved(film, tmp_path / "out.avi")
    assert not left
    assert len(right) > 40


def test_photo_of_two_people_is_dubbed(people, anna, ben, tmp_path):
    film = write_film(tmp_path / "film.mp4", 1)
    photo = tmp_path / "photo.png"
    cv2.imwrite(str(photo), next(read_frames(film)).image)
    turns = [Turn("a", 0, 0.4), Turn("b", 0.8, 1.2)]
    out = tmp_path / "out.avi"
    report = dub_speakers(photo, [f"a={anna}", f"b={ben}"], out, turns=turns, models=people, **OPTIONS)
    assert report.frames == 30
    assert all(one.dubbed_frames >= 10 for one in report.speakers)


@pytest.mark.parametrize(
    ("speakers", "more", "named"),
    [
        (["anna"], {}, "anna"),
        (["anna=a.wav@left", "anna=b.wav"], {}, "--speaker anna"),
        (["=a.wav"], {}, "--speaker"),
        (["anna=a.wav@1,2@3", "ben=b.wav@1,2@3"], {}, "--speaker ben"),
        (["anna=a.wav@me.png", "ben=b.wav@me.png"], {}, "me.png"),
        ([Speaker("a", "a.wav")], {"turns": [], "rttm": "x.rttm", "audio": "a.wav"}, "--rttm"),
        (["a=a.wav"], {"rttm": "x.rttm"}, "--audio"),
        (["a=a.wav"], {"box": (0, 9, 0, 9)}, "--box"),
        (["a=a.wav"], {"face_select": "left"}, "--face_select left"),
        (["a=missing.wav"], {}, "missing.wav"),
        ("a=a.wav", {}, "speakers"),
        ([], {}, "speaker"),
    ],
)
def test_bad_speakers_are_refused(film, tmp_path, speakers, more, named):
    with pytest.raises(Wav2LipError) as failure:
        dub_speakers(film, speakers, tmp_path / "out.mp4", **more)
    assert named in str(failure.value)
    assert not (tmp_path / "out.mp4").exists()


def test_each_mouth_is_checked_with_its_own_voice(people, film, anna, ben, tmp_path):
    speakers = [f"a={anna}@left", f"b={ben}@right", f"c={ben}"]
    turns = [Turn("a", 0), Turn("b", 0, 0.4), Turn("c", 0)]
    report = dub_speakers(
        film, speakers, tmp_path / "o.avi", turns=turns, models=people, min_confidence=1.0, **OPTIONS
    )
    a, b, c = report.speakers
    assert a.check.windows >= 15 and a.check.cosine is not None
    assert (b.check.windows, b.check.confidence, c.check) == (0, None, None)
    assert a.check.suspect and report.check == b.check
    alone = dub(
        film, anna, tmp_path / "a.avi", models=people, face_select="left", min_confidence=1.0, **OPTIONS
    )
    assert alone.check.cosine == pytest.approx(a.check.cosine, abs=0.02)


def test_faces_that_cannot_be_told_apart(people, anna, tmp_path):
    film = write_film(tmp_path / "film.mp4", 10, lambda frame: {"anna": LEFT})
    with pytest.raises(FaceError, match=r"film\.mp4.* 2 faces"):
        dub_speakers(film, [f"a={anna}@left", f"b={anna}@right"], tmp_path / "o.mp4", models=people)
    with pytest.raises(FaceError, match=r"300,50 in .*film\.mp4"):
        dub_speakers(film, [f"a={anna}@300,50@0.1"], tmp_path / "o.mp4", models=people)


def test_nobody_is_like_the_photo(people, film, anna, tmp_path):
    """A film in which nothing was changed is an error, unless nobody was to speak in it."""
    photo, speakers = tmp_path / "other.png", [f"a={anna}@{tmp_path / 'other.png'}"]
    cv2.imwrite(str(photo), cv2.copyMakeBorder(faces()["ben"], 20, 20, 20, 20, 0, value=(110, 110, 110)))
    alone = write_film(tmp_path / "film.mp4", 50, lambda frame: {"anna": LEFT})
    more = {"turns": [Turn("a", 1.0, 1.5)], "models": people, **OPTIONS}
    with pytest.raises(FaceError, match=r"film\.mp4.* of a\."):
        dub_speakers(alone, speakers, tmp_path / "o.avi", **more)
    assert not (tmp_path / "o.avi").exists()
    report = dub_speakers(alone, speakers, tmp_path / "o.avi", duration=0.6, **more)
    assert report.unchanged_spans == [(0, 14, "listening")]


def test_turn_after_the_end_of_the_audio(people, film, anna, tmp_path):
    with pytest.raises(UsageError, match=r"anna at 7 s.*anna\.wav"):
        dub_speakers(film, ["anna"], tmp_path / "o.mp4", audio=anna, turns=[Turn("anna", 7)], models=people)


def test_command(people, film, anna, ben, tmp_path, monkeypatch):
    from wav2lip_npu.dubbing import inference

    monkeypatch.setattr(inference, "load_models", lambda *_, **__: people)
    (tmp_path / "turns.csv").write_text(f"who,start,end,audio\nanna,0.2,0.8,\nben,1.0,1.6,{ben}\n")
    arguments = [
        "dub", "--face", str(film), "--speaker", f"anna={anna}@left", "--speaker", "ben@right",
        "--turns", str(tmp_path / "turns.csv"), "--report", str(tmp_path / "report.json"),
        "--outfile", str(tmp_path / "out.mp4"), "--preset", "ultrafast", "--occlusion", "off",
    ]  # fmt: skip
    assert main(arguments) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert [(one["name"], one["face"], one["turns"]) for one in report["speakers"]] == [
        ("anna", "left", [[0.2, 0.8]]),
        ("ben", "right", [[1.0, 1.6]]),
    ]
    assert report["speakers"][1]["audio"] == [str(ben)]
    assert main([*arguments[:3], "--outfile", str(tmp_path / "o.mp4")]) == 2
    assert main([*arguments, "--voice", str(anna)]) == 2
    assert main([*arguments[:-6], "--report", str(anna), "--outfile", str(tmp_path / "o.mp4")]) == 2
