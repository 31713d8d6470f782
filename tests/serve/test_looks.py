"""Faces at a time, a preview and an envelope."""

from __future__ import annotations

import base64
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile

from support.faces import write_audio
from support.media_files import write_frames
from support.talk import face_images, write_talk
from wav2lip_npu.dubbing.dialogue import Dialogue, Speaker, Turn
from wav2lip_npu.dubbing.pipeline import dub
from wav2lip_npu.errors import FaceError, MediaError, UsageError
from wav2lip_npu.media.container import probe
from wav2lip_npu.media.video_reader import frame_at, read_frames
from wav2lip_npu.serve.engine_options import EngineOptions
from wav2lip_npu.serve.interactive import _Question, _result
from wav2lip_npu.serve.looks import Looks


@pytest.fixture(scope="module")
def looks(tmp_path_factory: pytest.TempPathFactory) -> Looks:
    return Looks(EngineOptions(folder=str(tmp_path_factory.mktemp("data")), devices=("cpu",)), "looks")


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_talk(tmp_path_factory.mktemp("talk") / "talk.mp4", 2.0, faces=2))


def test_faces_have_boxes_and_points_to_select_them(looks: Looks, talk: str) -> None:
    answer = looks.faces(talk, 1.0)
    info = probe(talk)
    assert (answer["width"], answer["height"]) == (info.width, info.height)
    assert (answer["seconds"], answer["fps"]) == (2.0, 25.0)
    lefts = sorted(face["box"][0] for face in answer["faces"])
    assert len(lefts) == 2
    assert lefts[1] - lefts[0] == pytest.approx(200, abs=8)
    for face in answer["faces"]:
        left, top, right, bottom = face["box"]
        x, y = map(int, face["face_select"].split(","))
        assert left < x < right
        assert top < y < bottom
        assert face["reason"] is None
        assert abs(face["pose"]["roll"]) < 30
    moved = sorted(face["box"][0] for face in looks.faces(talk, 0.0)["faces"])
    assert lefts[0] - moved[0] == pytest.approx(50, abs=4)
    picture = np.frombuffer(base64.b64decode(answer["picture"]), np.uint8)
    assert cv2.imdecode(picture, cv2.IMREAD_COLOR).shape[:2] == (info.height, info.width)


def test_times_are_checked(looks: Looks, talk: str) -> None:
    with pytest.raises(UsageError, match="-1"):
        looks.faces(talk, -1)
    last = looks.faces(talk, 99.0)["faces"]
    assert last == looks.faces(talk, 1.999)["faces"]


def test_frame_at_a_time_is_that_of_the_video(tmp_path: Path) -> None:
    path = write_talk(tmp_path / "a.mp4", 1.6)
    frames = [frame.image for frame in read_frames(path)]
    info = probe(path)
    for seconds in (0.0, 0.5, 1.219, 1.6):
        index = min(int(seconds * 25), len(frames) - 1)
        assert np.array_equal(frame_at(info, seconds).to_image(), frames[index])


def test_preview_is_the_frame_of_a_dub(looks: Looks, tmp_path: Path) -> None:
    talk = write_talk(tmp_path / "talk.mp4", 0.8)
    audio = write_audio(tmp_path / "speech.wav", 0.8)
    out = tmp_path / "out.mp4"
    options = {"crf": 14, "preset": "ultrafast", "skip": "0-0.1"}
    dub(talk, audio, out, models=looks._models(_job(talk, audio)), **options)
    frames = [frame.image for frame in read_frames(out)]
    for seconds, index in ((0.6, 15), (9.0, 19)):
        jpeg, shown = looks.preview(str(talk), str(audio), "starter", options, seconds)
        assert shown == index / 25
        image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).astype(float)
        differences = [np.abs(image - frame).mean() for frame in frames]
        assert int(np.argmin(differences)) == index
        assert differences[index] < 2
    assert not list(looks._folder.iterdir())


def test_late_preview_is_made_from_a_section(
    looks: Looks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = [number / 25 for number in range(60)]
    talk = write_frames(tmp_path / "talk.mp4", face_images(times), options={"g": "10", "crf": "14"})
    audio = write_audio(tmp_path / "speech.wav", 2.4)
    options = {"crf": 14, "preset": "ultrafast", "skip": "0-1.6,2.2-"}
    exact = _frame(looks.preview(str(talk), str(audio), "starter", options, 2.0))
    monkeypatch.setattr("wav2lip_npu.serve.looks._LATE_S", 0.5)
    used = []
    monkeypatch.setattr(
        "wav2lip_npu.serve.looks.dub", lambda *files, **more: used.append(files) or dub(*files, **more)
    )
    late = _frame(looks.preview(str(talk), str(audio), "starter", options, 2.0))
    assert used[0][0].path != str(talk)
    assert np.abs(late - exact).mean() < 1.5


def test_preview_of_several_speakers(looks: Looks, talk: str, tmp_path: Path) -> None:
    """The mouth of whoever speaks at the time is generated, and errors do not name paths of the server."""
    audio = str(write_audio(tmp_path / "speech.wav", 1.6))
    speakers = Speaker("anna", audio, "left"), Speaker("ben", audio, "right")
    turns = Turn("anna", 0, 0.6), Turn("ben", 0.9, 1.6)
    dialogue = Dialogue(speakers=speakers, turns=turns)
    options = {"crf": 14, "preset": "ultrafast"}
    jpeg, shown = looks.preview(talk, dialogue, "starter", options, 1.2)
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).astype(float)
    left, right = np.split(np.abs(image - frame_at(probe(talk), shown).to_image()), 2, axis=1)
    assert left.max() < 30 < right.max()
    nobody = Dialogue(speakers=(Speaker("anna", audio, str(tmp_path / "no.png")),))
    cv2.imwrite(str(tmp_path / "no.png"), np.zeros((90, 90, 3), np.uint8))
    values = {"face": talk, "audio": nobody, "model": "starter", "options": options, "seconds": 1.2}
    error = _result(looks, _Question("preview", values))
    assert isinstance(error, FaceError) and "the photo" in str(error) and str(tmp_path) not in str(error)


def _frame(answer: tuple[bytes, float]) -> np.ndarray:
    jpeg, shown = answer
    assert shown == pytest.approx(2.0, abs=0.001)
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).astype(float)


def _job(face: Path, audio: Path) -> object:
    from wav2lip_npu.batch.jobs import Job

    return Job(face=face, audio=audio, outfile="out.mp4")


def test_preview_without_a_face_says_so(looks: Looks, faceless_video: Path, tmp_path: Path) -> None:
    audio = write_audio(tmp_path / "speech.wav", 0.5)
    with pytest.raises(FaceError, match="no face"):
        looks.preview(str(faceless_video), str(audio), "starter", {}, 0.4)


def test_envelope_has_peaks_and_pauses(looks: Looks, tmp_path: Path) -> None:
    time = np.arange(32_000) / 16_000
    loud = np.where((time > 0.5) & (time < 1.2), 0.0, 0.5) * np.sign(np.sin(2 * np.pi * 120 * time))
    soundfile.write(tmp_path / "a.wav", loud, 16_000)
    answer = looks.envelope(str(tmp_path / "a.wav"), 20)
    assert answer["seconds"] == 2.0
    assert len(answer["points"]) == 20
    assert answer["points"][2] == pytest.approx(0.5, abs=0.02)
    assert max(answer["points"][6:11]) < 0.1
    ((start, end),) = answer["pauses"]
    assert (start, end) == (pytest.approx(0.5, abs=0.06), pytest.approx(1.2, abs=0.06))
    with pytest.raises(UsageError, match="0"):
        looks.envelope(str(tmp_path / "a.wav"), 0)


def test_errors_do_not_name_paths_of_the_server(looks: Looks) -> None:
    error = _result(looks, _Question("envelope", {"path": __file__, "points": 5}))
    assert isinstance(error, MediaError)
    assert "the file is not" in str(error) and __file__ not in str(error)
