"""The worker of the service, with the real networks, in this process."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import pytest

from support.faces import SquareDetector, write_audio
from support.serve_jobs import upload
from wav2lip_npu.batch.job_keys import read_key
from wav2lip_npu.batch.progress import JobCancelled, JobProgress
from wav2lip_npu.batch.results import JobResult
from wav2lip_npu.dubbing import inference
from wav2lip_npu.media.container import probe
from wav2lip_npu.serve import state
from wav2lip_npu.serve.jobs import job_of, public_report, video_id_of
from wav2lip_npu.serve.queue import JobQueue
from wav2lip_npu.serve.records import Video
from wav2lip_npu.serve.store import OUTPUT, REPORT, THUMBNAIL, Store
from wav2lip_npu.serve.worker import StartServeWorker
from wav2lip_npu.storage import hashing

FAST = {"preset": "ultrafast", "detector": "hog"}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Path) -> Iterator[Store]:
    models = replace(inference.load_models(tiny_checkpoint, device="cpu"), detector=SquareDetector())
    monkeypatch.setattr(inference, "load_models", lambda *_, **__: models)
    threads = cv2.getNumThreads()
    yield Store(tmp_path / "data")
    cv2.setNumThreads(threads)


def jobs_of_one_face(store: Store, face: Path, *audios: Path) -> list[Video]:
    face_id = upload(store, face.read_bytes(), face.name).id
    ids = [upload(store, audio.read_bytes(), audio.name).id for audio in audios]
    for audio_id in ids:
        store.create(model="starter", face_id=face_id, audio_id=audio_id, options=FAST)
    return JobQueue(store).claim(4)


def events(store: Store, videos: list[Video]) -> Iterator[Any]:
    work = StartServeWorker(str(store.folder))("cpu")
    yield from work(tuple(job_of(video, store, None) for video in videos))


def test_job_of_a_shared_pass_is_cancelled_alone(store: Store, tmp_path: Path, face_video: Path) -> None:
    audios = [write_audio(tmp_path / f"{number}.wav", 1.8 + 0.1 * number) for number in range(2)]
    cancelled, other = jobs_of_one_face(store, face_video, *audios)
    ended = []
    for event in events(store, [cancelled, other]):
        if isinstance(event, JobProgress):
            store.cancel(cancelled.id)
        else:
            ended.append(event)
    dropped, result = ended
    assert dropped == JobCancelled(str(store.video_folder(cancelled.id) / OUTPUT))
    assert isinstance(result, JobResult)
    assert (video_id_of(result.job), result.status, result.takes) == (other.id, "ok", 2)
    assert not (store.video_folder(cancelled.id) / OUTPUT).exists()
    assert not list(store.folder.rglob("*.part"))


def test_output_has_a_report_and_a_thumbnail(store: Store, tmp_path: Path, face_video: Path) -> None:
    (video,) = jobs_of_one_face(store, face_video, write_audio(tmp_path / "a.wav", 0.6))
    *_, result = events(store, [video])
    folder = store.video_folder(video.id)
    assert {path.name for path in folder.iterdir()} == {OUTPUT, REPORT, THUMBNAIL}
    assert max(cv2.imread(str(folder / THUMBNAIL)).shape) == 320
    assert probe(folder / OUTPUT).frames == result.frames == 15
    assert result.check is not None
    assert read_key(folder / OUTPUT) == result.key
    before = (folder / OUTPUT).stat().st_ino
    *_, again = events(store, [video])
    assert (again.status, again.key) == ("ok", result.key)
    assert (folder / OUTPUT).stat().st_ino == before
    assert state.workers(store)[0].state == "ready"


def test_contents_are_not_read_to_be_hashed(
    store: Store, tmp_path: Path, face_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (video,) = jobs_of_one_face(store, face_video, write_audio(tmp_path / "a.wav", 0.4))
    read = []
    monkeypatch.setattr(hashing, "_read", lambda path: read.append(Path(path).name) or "0" * 64)
    *_, result = events(store, [video])
    assert result.status == "ok"
    assert not {result.inputs["face"]["sha256"], result.inputs["audio"]["sha256"]} & set(read)
    folder = os.path.realpath(store.folder)
    assert not [state for state in hashing._hashes if state.path.startswith(folder)], "would grow for ever"


def test_damaged_file_fails_only_its_job(store: Store, tmp_path: Path, face_video: Path) -> None:
    (damaged := tmp_path / "damaged.wav").write_bytes(b"RIFF" + bytes(50))
    bad, good = jobs_of_one_face(store, face_video, damaged, write_audio(tmp_path / "a.wav", 0.4))
    results = {
        video_id_of(event.job): event for event in events(store, [bad, good]) if isinstance(event, JobResult)
    }
    assert (results[bad.id].status, results[bad.id].reason) == ("failed", "media")
    assert results[good.id].status == "ok"


def test_several_speakers_have_one_pass_each(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from support.two_people import PeopleDetector, write_film

    models = replace(inference.load_models(), detector=PeopleDetector())
    monkeypatch.setattr(inference, "load_models", lambda *_, **__: models)
    film, anna = write_film(tmp_path / "film.mp4", 25), write_audio(tmp_path / "anna.wav", 0.8)
    face, voice = (upload(store, path.read_bytes(), path.name).id for path in (film, anna))
    speakers = [
        {"name": name, "audio_id": voice, "face": side, "photo_id": None}
        for name, side in (("anna", "left"), ("ben", "right"))
    ]
    turns = [
        {"who": who, "start": start, "end": start + 0.4, "audio_id": None, "offset": 0.0}
        for who, start in (("anna", 0.0), ("ben", 0.4))
    ]
    dialogue = {"speakers": speakers, "turns": turns, "audio_id": None, "listeners": "filmed"}
    values = {"options": {"preset": "ultrafast"}, "dialogue": dialogue, "more_files": [voice]}
    store.create(model="starter", face_id=face, audio_id=voice, **values)
    (video,) = JobQueue(store).claim(4)
    *_, result = events(store, [video])
    assert (result.status, result.detail) == ("ok", None)
    written = json.loads((store.video_folder(video.id) / REPORT).read_bytes())
    report = public_report(written, video, store, None)
    assert [(one["name"], one["audio"], one["turns"]) for one in report["speakers"]] == [
        ("anna", ["anna.wav"], [[0.0, 0.4]]),
        ("ben", ["anna.wav"], [[0.4, 0.8]]),
    ]
    assert str(store.folder) not in json.dumps(report)
