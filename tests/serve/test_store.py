from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import threading
import time
from pathlib import Path

import pytest

from wav2lip_npu.errors import DataError, OutputError
from wav2lip_npu.serve import listing, state
from wav2lip_npu.serve.database import _FIRST_SCHEMA
from wav2lip_npu.serve.queue import MAX_DEATHS, JobQueue
from wav2lip_npu.serve.records import (
    ConflictError,
    GoneError,
    NotFoundError,
    QueueFullError,
    StoredFile,
    Video,
)
from wav2lip_npu.serve.store import DATABASE, OUTPUT, Store

AUDIO_MEDIA = {"kind": "audio", "seconds": 1.0}


def upload(store: Store, content: bytes, name: str = "a.wav") -> StoredFile:
    path = store.upload_path()
    path.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    return store.add_file(path, sha256=sha256, name=name, media=AUDIO_MEDIA)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data", keep=3600)


def queued(store: Store, face: str = "face", audio: str = "audio", **more: object) -> Video:
    values = {"model": "starter", "options": {"crf": 18}, **more}
    face_id, audio_id = (upload(store, name.encode()).id for name in (face, audio))
    return store.create(face_id=face_id, audio_id=audio_id, **values)  # type: ignore[arg-type]


def test_file_is_kept_by_its_content(store: Store) -> None:
    first = upload(store, b"sound", "one.wav")
    again = upload(store, b"sound", "two.wav")
    assert again.id == first.id == "file_" + hashlib.sha256(b"sound").hexdigest()[:24]
    assert again.name == "two.wav"
    assert again.media == AUDIO_MEDIA
    assert store.content(again).read_bytes() == b"sound"
    assert [path.name for path in (store.folder / "files").iterdir()] == [first.sha256]
    assert not list((store.folder / "uploads").iterdir())
    assert store.file("file_0") is None


def test_incomplete_uploads_of_a_killed_service_are_removed(store: Store) -> None:
    store.upload_path().write_bytes(b"half")
    store.forget_uploads()
    assert not list((store.folder / "uploads").iterdir())


def test_file_in_use_is_not_deleted(store: Store) -> None:
    video = queued(store)
    with pytest.raises(ConflictError, match=video.face_id):
        store.delete_file(video.face_id)
    store.cancel(video.id)
    assert store.delete_file(video.face_id)
    assert not store.delete_file(video.face_id)
    assert store.file(video.face_id) is None
    assert len(list((store.folder / "files").iterdir())) == 1


def test_job_needs_its_files(store: Store) -> None:
    face = upload(store, b"face")
    with pytest.raises(NotFoundError, match="file_0"):
        store.create(model="starter", face_id=face.id, audio_id="file_0", options={})


def test_jobs_of_one_face_and_options_are_claimed_together(store: Store) -> None:
    a = [queued(store, "a", str(number)) for number in range(5)]
    other_options = queued(store, "a", options={"crf": 20})
    other_face = queued(store, "b")
    queue = JobQueue(store)
    first = queue.claim(4)
    assert [video.id for video in first] == [video.id for video in a[:4]]
    assert {video.status for video in first} == {"in_progress"}
    assert store.video(a[4].id).queue_position == 1  # type: ignore[union-attr]
    # Another worker gets a face that nobody is working on.
    assert [video.id for video in queue.claim(4)] == [other_face.id]
    assert [video.id for video in queue.claim(4)] == [a[4].id]
    assert [video.id for video in queue.claim(4)] == [other_options.id]
    assert queue.claim(4) == []


def test_states_of_a_job(store: Store) -> None:
    queue = JobQueue(store)
    video = queued(store)
    assert (video.status, video.stage, video.queue_position) == ("queued", "waiting", 1)
    queue.claim(4)
    queue.progress(video.id, stage="dubbing", frames_done=10, frames=40, fps=20.0, seconds_left=1.5)
    (event,) = listing.events(store, video.id, video.revision)
    assert (event.kind, event.video.progress, event.video.fps) == ("progress", 25, 20.0)
    assert listing.events(store, video.id, event.seq) == []
    assert queue.finish(video.id, report={"frames": 40}, frames=40, seconds=1.6, size="8x8")
    (event,) = listing.events(store, video.id, event.seq)
    done = event.video
    assert (event.kind, done.status, done.stage, done.progress) == ("done", "completed", "done", 100)
    assert done.report == {"frames": 40}
    assert done.completed_at is not None
    assert done.expires_at == done.completed_at + 3600
    assert state.totals(store) == {"completed": 1, "frames": 40, "seconds": 1.6}
    queue.fail(video.id, "media", "too late")
    assert store.video(video.id) == done


def test_cancelled_job_stays_cancelled(store: Store) -> None:
    queue = JobQueue(store)
    waiting, running = queued(store, "a"), queued(store, "b")
    store.cancel(waiting.id)
    assert [video.id for video in queue.claim(4)] == [running.id]
    assert queue.running([running.id, waiting.id]) == {running.id}
    cancelled = store.cancel(running.id)
    assert cancelled is not None
    assert cancelled.status == "cancelled"
    assert not queue.running([running.id])
    assert not queue.finish(running.id, report=None, frames=1, seconds=1, size="8x8")
    queue.release([running.id])
    assert state.counts(store) == {"queued": 0, "in_progress": 0, "completed": 0, "failed": 0, "cancelled": 2}
    assert store.cancel("video_0") is None


def test_job_over_which_workers_died_fails(store: Store) -> None:
    queue = JobQueue(store)
    ids = [queued(store, audio=str(number)).id for number in range(2)]
    assert len(queue.claim(4)) == 2
    queue.worker_died(ids, "its process died")
    for _ in range(MAX_DEATHS - 1):
        assert [video.id for video in queue.claim(4)] == ids[:1]  # alone, because either may be the cause
        queue.worker_died(ids[:1], "its process died")  # the other one is next
        assert [video.id for video in queue.claim(4)] == ids[1:]
        queue.release(ids[1:])
        store.database.connection.execute("UPDATE videos SET turn = turn + 9 WHERE id = ?", ids[1:])
    assert [video.id for video in queue.claim(4)] == ids[1:]
    failed, running = map(store.video, ids)
    assert failed is not None
    assert running is not None
    assert failed.error == {"code": "died", "message": "its process died"}
    assert running.status == "in_progress"


def test_jobs_of_a_killed_engine_are_queued_again(store: Store) -> None:
    queue = JobQueue(store)
    first, second = queued(store, "a"), queued(store, "b")
    queue.claim(4)
    assert JobQueue(Store(store.folder)).requeue_orphans() == 1
    assert [video.id for video in queue.claim(4)] == [first.id]
    for _ in range(20):
        queue.requeue_orphans()
        queue.claim(4)
    assert store.video(first.id).error["code"] == "died"  # type: ignore[union-attr,index]
    assert store.video(second.id).error["code"] == "died"  # type: ignore[union-attr,index]


def test_idempotency_key_returns_the_first_video(store: Store) -> None:
    first = queued(store, idempotency_key="k", body_hash="1")
    assert queued(store, idempotency_key="k", body_hash="1").id == first.id
    assert queued(store, idempotency_key="k", body_hash="1", client="b").id != first.id
    with pytest.raises(ConflictError, match="k"):
        queued(store, idempotency_key="k", body_hash="2")
    store.delete(first.id)
    with pytest.raises(GoneError, match=first.id):
        queued(store, idempotency_key="k", body_hash="1")
    JobQueue(store).expire(time.time() + 24 * 3600 + 1)
    assert queued(store, idempotency_key="k", body_hash="2").id != first.id


def test_queue_has_a_maximum(store: Store) -> None:
    queued(store, client="a", max_queue=1)
    with pytest.raises(QueueFullError):
        queued(store, client="b", max_queue=1)
    with pytest.raises(QueueFullError):
        queued(store, client="a", max_jobs=1)
    queued(store, client="b", max_jobs=1)
    assert state.counts(store)["queued"] == 2
    assert state.oldest_queued(store) is not None


def test_videos_are_listed_in_pages(store: Store) -> None:
    ids = [queued(store, str(number), client="ab"[number % 2]).id for number in range(5)]
    assert [video.id for video in listing.videos(store, limit=2)] == [ids[4], ids[3]]
    assert [video.id for video in listing.videos(store, limit=2, after=ids[3])] == [ids[2], ids[1]]
    assert [video.id for video in listing.videos(store, after=ids[2], order="asc")] == ids[3:]
    assert [video.id for video in listing.videos(store, client="b")] == [ids[3], ids[1]]
    store.cancel(ids[0])
    assert [video.id for video in listing.videos(store, status="cancelled")] == [ids[0]]
    with pytest.raises(NotFoundError, match="video_0"):
        listing.videos(store, after="video_0")


def test_deleted_video_has_no_files(store: Store) -> None:
    video = queued(store)
    store.video_folder(video.id).mkdir()
    (store.video_folder(video.id) / OUTPUT).touch()
    assert store.delete(video.id)
    assert not store.delete(video.id)
    assert not store.video_folder(video.id).exists()
    with pytest.raises(NotFoundError, match=video.id):
        listing.events(store, video.id)


def test_what_is_old_expires(store: Store) -> None:
    queue = JobQueue(store)
    ended, waiting = queued(store, "a"), queued(store, "b")
    unused = upload(store, b"unused")
    store.cancel(ended.id)
    for folder in (store.video_folder(ended.id), store.folder / "videos" / "left"):
        folder.mkdir()
    (store.folder / "files" / "left").touch()
    queue.expire(time.time())
    assert store.video(ended.id) is not None
    assert [path.name for path in (store.folder / "videos").iterdir()] == [ended.id]
    assert len(list((store.folder / "files").iterdir())) == 4
    queue.expire(time.time() + 3602)
    assert store.video(ended.id) is None
    assert store.video(waiting.id) is not None
    assert store.file(unused.id) is store.file(ended.face_id) is None
    assert {path.name for path in (store.folder / "files").iterdir()} == {
        store.file(file_id).sha256  # type: ignore[union-attr]
        for file_id in (waiting.face_id, waiting.audio_id)
    }
    assert not list((store.folder / "videos").iterdir())


def test_every_job_is_claimed_once_by_many_threads(store: Store) -> None:
    ids = {queued(store, str(number % 7), str(number)).id for number in range(60)}
    claimed: list[str] = []

    def work() -> None:
        queue = JobQueue(Store(store.folder))
        while videos := queue.claim(3):
            claimed.extend(video.id for video in videos)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claimed) == 60
    assert set(claimed) == ids


def test_database_of_another_version_is_refused(store: Store) -> None:
    store.database.connection.execute("PRAGMA user_version = 99")
    with pytest.raises(DataError, match=str(store.folder)):
        Store(store.folder)
    (store.folder / "serve.sqlite3").write_bytes(b"something else" * 100)
    with pytest.raises(DataError, match=str(store.folder)):
        Store(store.folder)


def test_job_keeps_the_names_of_its_files(store: Store) -> None:
    """Another client may upload the same content under another name."""
    video = queued(store)
    upload(store, b"face", "secret.mp4")
    found = store.video(video.id)
    assert found is not None and (found.face_name, found.audio_name) == ("a.wav", "a.wav")


def test_finished_video_can_be_deleted_while_the_disk_is_full(store: Store, monkeypatch) -> None:
    video = queued(store)
    JobQueue(store).claim(1)
    folder = store.video_folder(video.id)
    folder.mkdir(parents=True)
    (folder / OUTPUT).write_bytes(b"video")
    assert JobQueue(store).finish(video.id, report=None, frames=1, seconds=1, size="2x2")
    real = store.database.transaction

    def full_until_the_video_is_gone():
        if folder.exists():
            raise OutputError("disk full")
        return real()

    monkeypatch.setattr(store.database, "transaction", full_until_the_video_is_gone)
    assert store.delete(video.id)
    assert store.video(video.id) is None


def test_files_of_speakers_are_kept_as_long_as_their_video(store: Store) -> None:
    voice = upload(store, b"voice", "anna.wav")
    video = queued(store, dialogue={"speakers": []}, more_files=[voice.id])
    assert video.dialogue == {"speakers": []}
    assert store.names_of(video.id)[str(store.content(voice))] == "anna.wav"
    with pytest.raises(ConflictError, match=voice.id):
        store.delete_file(voice.id)
    with pytest.raises(NotFoundError, match="file_0"):
        queued(store, more_files=["file_0"])
    queue = JobQueue(store)
    queue.expire(time.time() + 3700)
    assert store.file(voice.id) is not None
    store.delete(video.id)
    queue.expire(time.time() + 3700)
    assert store.file(voice.id) is None
    assert not list((store.folder / "files").iterdir())


def test_folder_of_the_first_version_is_taken_over(tmp_path: Path) -> None:
    (folder := tmp_path / "data").mkdir()
    with contextlib.closing(sqlite3.connect(folder / DATABASE)) as connection:
        connection.executescript(_FIRST_SCHEMA)
        connection.executescript(
            """
            INSERT INTO files VALUES ('file_1', 'abc', 'talk.mp4', 3, 1, 1, '{}'), ('file_2', 'def', 'a.wav', 3, 1, 1, '{}');
            INSERT INTO videos (turn, id, model, created_at, face_id, audio_id, face_name, audio_name, options, client)
                VALUES (1, 'video_1', 'starter', 1, 'file_1', 'file_2', 'old.mp4', 'a.wav', '{"crf": 20}', '');
            PRAGMA user_version = 1;
            """
        )
    for _ in range(2):
        store = Store(folder, keep=3600)
        video = store.video("video_1")
        assert video is not None and (video.dialogue, video.options, video.queue_position) == (
            None,
            {"crf": 20},
            1,
        )
        assert set(store.names_of("video_1").values()) == {"old.mp4", "a.wav"}
        with pytest.raises(ConflictError):
            store.delete_file("file_2")
        store.database.close()
    with contextlib.closing(sqlite3.connect(folder / DATABASE)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(DataError, match="newer"):
        Store(folder)
