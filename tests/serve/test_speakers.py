"""Jobs with several speakers over HTTP: their files, turns, limits, and what the worker makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from support.media_files import chirp, write_wav
from support.service import RunningService
from wav2lip_npu.serve.jobs import job_of
from wav2lip_npu.serve.queue import JobQueue

RTTM = "SPEAKER talk 1 0.10 0.20 <NA> <NA> anna <NA> <NA>\nSPEAKER talk 1 0.30 0.20 <NA> <NA> ben <NA> <NA>\n"


@pytest.fixture
def stopped(service):
    """Jobs stay in the queue during the test, and are deleted after it."""
    service.engine.runs.clear()
    yield
    for video in service.client.get("/v1/videos", params={"limit": 100}).json()["data"]:
        service.client.delete(f"/v1/videos/{video['id']}")
    service.engine.runs.set()


def write_photo(path: Path) -> Path:
    cv2.imwrite(str(path), np.zeros((32, 32, 3), np.uint8))
    return path


@pytest.fixture(scope="session")
def voices(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("voices")
    (folder / "talk.rttm").write_text(RTTM)
    (folder / "bad.rttm").write_text("SPEAKER talk 1 soon 0.20 <NA> <NA> anna <NA> <NA>\n")
    return {
        "anna": write_wav(folder / "anna.wav", chirp(1.0)),
        "ben": write_wav(folder / "ben.wav", chirp(1.5)),
        "rttm": folder / "talk.rttm",
        "photo": write_photo(folder / "photo.png"),
        "bad": folder / "bad.rttm",
    }


@pytest.fixture
def ids(service, voices, face_video) -> dict[str, str]:
    return {
        name: service.upload(path) for name, path in {**voices, "face": face_video}.items() if name != "bad"
    }


def create(
    service: RunningService, expected: int = 200, headers: Any = None, **fields: Any
) -> dict[str, Any]:
    answer = service.client.post("/v1/videos", json=fields, headers=headers)
    assert answer.status_code == expected, answer.text
    result: dict[str, Any] = answer.json()
    return result


def two(ids: dict[str, str], **more: Any) -> dict[str, Any]:
    speakers = [
        {"name": "anna", "audio_id": ids["anna"], "face": "left"},
        {"name": "ben", "audio_id": ids["ben"], "face": {"photo_id": ids["photo"]}},
    ]
    return {"face_id": ids["face"], "speakers": speakers, **more}


def batch_job(service: RunningService, video: dict[str, Any]) -> Any:
    stored = service.store.video(video["id"])
    assert stored is not None
    return job_of(stored, service.store, None)


def test_speakers_with_their_own_audio(service, ids, stopped):
    video = create(service, **two(ids, listeners="still", crf=20))
    assert [one["name"] for one in video["speakers"]] == ["anna", "ben"]
    assert (video["listeners"], video["seconds"], video["audio_id"]) == ("still", "1.5", ids["anna"])
    job = batch_job(service, video)
    contents = {name: str(service.store.content(service.store.file(file))) for name, file in ids.items()}
    anna, ben = job.dialogue.speakers
    assert (anna.audio, anna.face) == (contents["anna"], "left")
    assert (ben.audio, ben.face) == (contents["ben"], contents["photo"])
    assert (job.dialogue.audio, job.dialogue.listeners, job.dub.encode.crf) == (None, "still", 20)
    for name in ("anna", "ben", "photo"):
        answer = service.client.delete(f"/v1/files/{ids[name]}")
        assert answer.status_code == 409 and ids[name] in answer.json()["detail"]


def test_turns_of_a_form_with_files(service, voices, face_video, stopped):
    speakers = [
        {"name": "anna", "audio_id": "voice of anna", "face": "30,40"},
        {"name": "ben", "face": "right"},
    ]
    turns = [
        {"who": "anna", "start": 0.5},
        {"who": "ben", "start": 0.25, "end": 2, "audio_id": "b", "offset": 0.1},
    ]
    data = {"speakers": json.dumps(speakers), "turns": json.dumps(turns)}
    with open(face_video, "rb") as face, open(voices["anna"], "rb") as a, open(voices["ben"], "rb") as b:
        files = {"face": face, "voice of anna": a, "b": b}
        answer = service.client.post("/v1/videos", files=files, data=data)
        assert answer.status_code == 200, answer.text
        stray = service.client.post("/v1/videos", files={**files, "c": b}, data=data)
    assert stray.status_code == 422 and "'c'" in stray.json()["detail"]
    assert answer.json()["seconds"] == "1.65"
    dialogue = batch_job(service, answer.json()).dialogue
    assert [(turn.who, turn.start, turn.end, turn.offset) for turn in dialogue.turns] == [
        ("anna", 0.5, None, 0),
        ("ben", 0.25, 2, 0.1),
    ]
    assert dialogue.speakers[0].face == "30,40@0"


def test_rttm_and_one_recording(service, ids, voices, stopped):
    video = create(service, face_id=ids["face"], audio_id=ids["anna"], rttm_id=ids["rttm"])
    assert video["speakers"] == [] and video["seconds"] == "1"
    job = batch_job(service, video)
    assert job.audio and [turn.who for turn in job.dialogue.turns] == ["anna", "ben"]
    media = service.client.get(f"/v1/files/{ids['rttm']}").json()["media"]
    assert (media["kind"], media["has_audio"]) == ("rttm", False)
    for text in ("\ufeffSPEAKER\ttalk\t1\t0\t1\t<NA>\t<NA>\tanna", f"LEXEME talk 1 0 1 so lex anna\n{RTTM}"):
        answer = service.client.post("/v1/files", files={"file": ("more.rttm", text.encode())})
        assert answer.json()["media"]["kind"] == "rttm", answer.text
    escape = service.client.post(
        "/v1/files", files={"file": ("e.rttm", RTTM.replace("anna", "\x1b").encode())}
    )
    refused = create(service, 422, face_id=ids["face"], audio_id=ids["anna"], rttm_id=escape.json()["id"])
    assert "e.rttm" in refused["detail"]
    with open(voices["bad"], "rb") as file:
        answer = service.client.post("/v1/files", files={"file": file})
    assert answer.status_code == 422 and "bad.rttm, line 1" in answer.json()["detail"]
    assert "anna.wav" in create(service, 422, **two(ids, rttm_id=ids["anna"], audio_id=ids["anna"]))["detail"]


def test_idempotency(service, ids, stopped):
    headers = {"Idempotency-Key": "two"}
    video = create(service, headers=headers, **two(ids))
    assert create(service, headers=headers, **two(ids))["id"] == video["id"]
    create(service, 409, headers=headers, **two(ids, listeners="still"))


def test_preview(service, ids, monkeypatch):
    """A frame is that of the job: the same speakers, turns and errors."""
    asked: list[Any] = []
    answers = service.app.state.service.questions.interactive
    real = answers.preview
    monkeypatch.setattr(
        answers, "preview", lambda *values, **more: asked.append(values) or real(*values, **more)
    )
    body = {**two(ids), "turns": [{"who": "anna", "start": 0}, {"who": "ben", "start": 0.2}], "time": 0.5}
    assert service.client.post("/v1/previews", json=body).content
    dialogue = asked[0][1]
    assert [one.name for one in dialogue.speakers] == ["anna", "ben"] and len(dialogue.turns) == 2
    assert dialogue.speakers[1].face == str(service.store.content(service.store.file(ids["photo"])))
    for fields, expected, words in (
        ({"turns": body["turns"][:1]}, 422, "ben"),
        ({"speakers": [{**ANNA}]}, 404, "file_0"),
        ({"speakers": None, "turns": None}, 404, "file"),
    ):
        answer = service.client.post("/v1/previews", json={**body, **fields})
        assert answer.status_code == expected and words in answer.json()["detail"], answer.text


def test_each_job_has_its_own_pass(service, ids, stopped):
    videos = [create(service, **two(ids)) for _ in range(2)]
    assert [video.id for video in JobQueue(service.store).claim(4)] == [videos[0]["id"]]


ANNA: dict[str, Any] = {"name": "anna", "audio_id": "file_0"}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"speakers": 1}, ["speakers"]),
        ({"speakers": "["}, ["speakers", "JSON"]),
        ({"speakers": []}, ["nobody"]),
        ({"speakers": [{}]}, ["speakers[0].name"]),
        ({"speakers": [{**ANNA, "nme": 1}]}, ["speakers[0].nme"]),
        ({"speakers": [{**ANNA, "name": "a=b"}]}, ["speakers[0].name", "a=b"]),
        ({"speakers": [{**ANNA, "face": "/etc/passwd"}]}, ["speakers[0].face", "/etc/passwd"]),
        ({"speakers": [{**ANNA, "face": "me.png"}]}, ["speakers[0].face", "me.png"]),
        ({"speakers": [{**ANNA, "face": {"photo": 1}}]}, ["speakers[0].face", "photo_id"]),
        ({"speakers": [{**ANNA, "audio_url": "https://x/"}]}, ["audio_id", "audio_url"]),
        ({"speakers": [{"name": "anna", "audio_url": "https://x/"}]}, ["audio_url", "--allow_urls"]),
        ({"listeners": "asleep"}, ["listeners", "asleep"]),
        ({"turns": [{"who": "anna"}]}, ["turns[0].start"]),
        ({"turns": [{"who": "anna", "start": -1}]}, ["turns[0].start", "-1"]),
        ({"turns": [{"who": "anna", "start": 0}] * 5001}, ["turns", "5000"]),
        ({"turns": [{"who": "anna ", "start": 0}]}, ["turns[0].who"]),
        ({"turns": [{"who": "a\nb", "start": 0}]}, ["turns[0].who"]),
        ({"turns": '[{"who": "anna", "start": NaN}]'}, ["turns[0].start"]),
        (
            {"speakers": [{**ANNA, "face": {"frame_number": 0, "coordinates": [1e300, 1]}}]},
            ["speakers[0].face"],
        ),
        ({"speakers": '[{"name": "a", "face": {"frame_number": 0, "coordinates": [NaN, 1]}}]'}, ["face"]),
        ({"options": {"speakers": []}, "speakers": []}, ["speakers"]),
    ],
)
def test_refused_fields(service, ids, fields, words):
    detail = create(service, 422, face_id=ids["face"], **fields)["detail"]
    assert all(word in detail for word in words), detail
    assert "\n" not in detail and len(detail) < 400


def test_refused_dialogues(service, ids):
    def refused(status: int = 422, **fields: Any) -> str:
        return str(create(service, status, **{**two(ids), **fields})["detail"])

    anna = two(ids)["speakers"][0]
    turns = [{"who": "anna", "start": 0}, {"who": "ben", "start": 0.2}]
    assert "file_0" in refused(404, speakers=[{**anna, "audio_id": "file_0"}])
    assert "talk.rttm" in refused(speakers=[{**anna, "audio_id": ids["rttm"]}])
    assert "anna.wav" in refused(speakers=[{**anna, "face": {"photo_id": ids["anna"]}}])
    assert "anna" in refused(speakers=[anna, anna])
    assert "ben" in refused(speakers=[anna, {"name": "ben"}])
    assert "ben" in refused(turns=turns[:1])
    assert "anna.wav" in refused(turns=[*turns, {"who": "anna", "start": 3}])
    late = {"who": "anna", "start": 900_000, "audio_id": ids["anna"]}
    assert "900001" in refused(turns=[*turns, late])
    assert "--audio" in refused(rttm_id=ids["rttm"], speakers=[])
    assert "face_select" in refused(face_select="left")
    assert "9" in refused(speakers=[{**anna, "name": f"{number}"} for number in range(9)])
    answer = service.client.post(
        "/v1/videos", content=rb'{"a": "\ud800"}', headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 400


def asd(frame: int, x: int, y: int) -> dict[str, Any]:
    return {"active_speaker_detection": {"frame_number": frame, "coordinates": [x, y]}}


def test_segments_of_sync_so(service, ids, stopped):
    """Two people, of whom one speaks with two files, as clients of sync.so send it."""
    inputs = [
        {"type": "video", "assetId": ids["face"]},
        {"type": "audio", "assetId": ids["anna"], "refId": "a1"},
        {"type": "audio", "assetId": ids["ben"], "refId": "b1"},
    ]
    segments = [
        {"startTime": 0, "endTime": 0.4, "audioInput": {"refId": "a1"}, "optionsOverride": asd(10, 70, 80)},
        {
            "startTime": 0.4,
            "endTime": 2,
            "audioInput": {"refId": "b1", "startTime": 0.25, "endTime": 1.0},
            "optionsOverride": {
                "active_speaker_detection": {"bounding_boxes": [None, [1, 2, 3, 4], [0, 20, 40, 60]]}
            },
        },
        {"startTime": 1, "endTime": 1, "audioInput": {"refId": "a1"}},
        {"startTime": 1.2, "endTime": 1.4, "audioInput": {"refId": "b1"}, "optionsOverride": asd(10, 70, 80)},
    ]
    options = {"sync_mode": "bounce", **asd(3, 5, 6)}
    video = create(service, input=inputs, segments=segments, options=options)
    assert video["options"] == {"extend": "pingpong"} and video["face_id"] == ids["face"]
    assert {one["name"]: one["face"] for one in video["speakers"]} == {
        "a1": "70.0,80.0@0.4100",
        "b1": "20.0,40.0@0.0900",
    }
    job = batch_job(service, video)
    told = [
        (turn.who, turn.start, turn.end, turn.offset, Path(turn.audio).name[:20])
        for turn in job.dialogue.turns
    ]
    anna, ben = (ids[name][5:25] for name in ("anna", "ben"))
    assert told == [("a1", 0, 0.4, 0, anna), ("b1", 0.4, 1.15, 0.25, ben), ("a1", 1.2, 1.4, 0, ben)]

    plain = [
        {key: segment[key] for key in ("startTime", "endTime", "audioInput")} for segment in segments[:2]
    ]
    video = create(service, input=inputs, segments=plain)
    assert [(one["name"], one["face"]) for one in video["speakers"]] == [("a1", None), ("b1", None)]
    video = create(service, input=inputs[:2], options=asd(0, 9, 9))
    assert [(one["name"], one["audio_id"]) for one in video["speakers"]] == [("speaker", ids["anna"])]
    assert create(service, input=inputs[:2])["speakers"] is None
    auto = {"active_speaker_detection": {"auto_detect": True}}
    assert create(service, input=inputs[:2], options=auto)["options"] == {"face_select": "speaking"}
    video = create(service, input=inputs, segments=plain, options=auto)
    assert [(one["name"], one["face"]) for one in video["speakers"]] == [("a1", "auto"), ("b1", "auto")]
    assert [one.face for one in batch_job(service, video).dialogue.speakers] == ["auto", "auto"]


def test_segments_of_a_form(service, voices, face_video, stopped):
    segments = [{"startTime": 0, "endTime": 0.5, "audioInput": {"refId": "a"}}]
    with open(face_video, "rb") as face, open(voices["anna"], "rb") as audio:
        data = {"segments": json.dumps(segments), "options": json.dumps(asd(0, 9, 9))}
        answer = service.client.post("/v1/videos", files={"face": face, "a": audio}, data=data)
    assert [one["face"] for one in answer.json()["speakers"]] == ["9.0,9.0@0.0100"]


SEGMENT: dict[str, Any] = {"startTime": 0, "endTime": 1, "audioInput": {"refId": "a"}}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"segments": []}, ["nobody"]),
        ({"segments": [{"startTime": 0, "endTime": 1}]}, ["segments[0].audioInput"]),
        ({"segments": [{"startTime": 0, "endTime": 1, "audioInput": {"refId": "x"}}]}, ["x"]),
        ({"segments": [SEGMENT | {"audioInput": {"refId": "a", "startTime": 2, "endTime": 1}}]}, ["at 0 s"]),
        ({"segments": [SEGMENT], "speakers": [ANNA]}, ["segments", "speakers"]),
        ({"segments": [SEGMENT], "input": [{"type": "audio", "assetId": "f", "refId": "a"}] * 2}, ["'a'"]),
        ({"input": [{"type": "text", "provider": {}}]}, ["input[0]", "text"]),
        ({"input": [{"type": "audio"}]}, ["url", "assetId"]),
        ({"input": [{"type": "video", "url": "https://example.com/a.mp4"}], "face_id": ""}, ["--allow_urls"]),
        ({"input": [{"type": "audio", "assetId": "file_0"}] * 2}, ["segments"]),
        ({"options": {"sync_mode": "remap"}}, ["sync_mode", "remap"]),
        ({"options": {"active_speaker_detection": {"auto_detect": "perhaps"}}}, ["auto_detect"]),
        ({"options": {"active_speaker_detection": {"bounding_boxes": [None]}}}, ["bounding_boxes"]),
        (
            {"options": {"active_speaker_detection": {"bounding_boxes_url": "https://x"}}},
            ["bounding_boxes_url"],
        ),
        ({"options": {"temperature": 1}}, ["temperature"]),
    ],
)
def test_refused_fields_of_sync_so(service, ids, fields, words):
    status = 404 if words == ["x"] else 422
    detail = create(service, status, **{"face_id": ids["face"], **fields})["detail"]
    assert all(word in detail for word in words), detail
