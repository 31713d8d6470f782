"""The service survives kill -9 of any of its processes: no job is lost, and no output is made twice."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.faces import write_audio
from support.serve_jobs import queue_job, upload
from support.serve_processes import Server
from support.talk import write_talk
from wav2lip_npu.batch.job_keys import read_key
from wav2lip_npu.serve import listing, state
from wav2lip_npu.serve.store import OUTPUT, Store


@contextlib.contextmanager
def _first_states(store: Store) -> Iterator[dict[str, tuple[int, int]]]:
    """Yield the inode and time of each output when it was first seen."""
    states: dict[str, tuple[int, int]] = {}
    stopped = threading.Event()

    def watch() -> None:
        while not stopped.wait(0.01):
            for path in store.folder.glob(f"videos/*/{OUTPUT}"):
                if path.parent.name not in states:
                    status = path.stat()
                    states[path.parent.name] = status.st_ino, status.st_mtime_ns

    thread = threading.Thread(target=watch)
    thread.start()
    yield states
    stopped.set()
    thread.join()


def _kill_and_wait(store: Store, server: Server, ids: list[str], kills: list[str], pause: float) -> None:
    """Kill processes at random moments until `kills` is empty, then wait for all jobs."""
    deadline = time.monotonic() + 900
    chance = random.Random(1)
    while any(not video.is_final for video in map(store.video, ids) if video is not None):
        assert time.monotonic() < deadline, state.counts(store)
        time.sleep(chance.uniform(0.3, 1) * pause)
        if kills and state.counts(store)["in_progress"] and server.kill(kills[0]):
            kills.pop(0)
    assert not kills


def test_no_job_is_lost_or_made_twice(tmp_path: Path) -> None:
    store = Store(tmp_path / "data")
    ids = [queue_job(store, f"slow {number}", face=f"face {number % 3}").id for number in range(12)]
    server = Server(store.folder, scripted=True)
    try:
        _kill_and_wait(store, server, ids, ["worker", "http", "engine"], pause=0.4)
    finally:
        server.close()
    assert state.counts(store)["completed"] == len(ids)
    made = Counter(line.split()[0] for line in (store.folder / "made").read_text().splitlines())
    assert set(made) <= set(ids)
    assert set(made.values()) == {1}


@pytest.mark.slow
@pytest.mark.alone
def test_a_hundred_real_jobs_survive_ten_kills(tmp_path: Path) -> None:
    store = Store(tmp_path / "data")
    ids = []
    for face in range(5):
        talk = write_talk(tmp_path / f"{face}.mp4", 0.4 + 0.04 * face)
        face_id = upload(store, talk.read_bytes(), talk.name).id
        for number in range(20):
            audio = write_audio(tmp_path / f"{number}.wav", 0.3 + 0.01 * number)
            audio_id = upload(store, audio.read_bytes(), audio.name).id
            video = store.create(model="starter", face_id=face_id, audio_id=audio_id, options={})
            ids.append(video.id)
    random.Random(0).shuffle(ids)
    kills = ["worker", "engine", "http", "worker", "worker", "http", "engine", "worker", "http", "worker"]
    server = Server(store.folder, scripted=False)
    started = time.monotonic()
    with _first_states(store) as states:
        try:
            _kill_and_wait(store, server, ids, kills, pause=4)
        finally:
            server.close()
    print(f"100 jobs, 10 kills: {time.monotonic() - started:.0f} s")
    assert {
        str(video.error) for video in listing.videos(store, limit=100) if video.status != "completed"
    } == set()
    for video_id in ids:
        out = store.video_folder(video_id) / OUTPUT
        status = out.stat()
        assert states[video_id] == (status.st_ino, status.st_mtime_ns)
        assert read_key(out) is not None
        assert not list(out.parent.glob("*.part"))
