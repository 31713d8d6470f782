"""Jobs of one device: each ends with its own result, whatever happens to the worker."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from support.batch_jobs import wait_for
from support.scripted_worker import FRAMES, ScriptedWorker
from support.serve_jobs import queue_job, wait_until_ended
from wav2lip_npu.errors import OutputError
from wav2lip_npu.serve import device_loop, probe, state
from wav2lip_npu.serve.device_loop import DeviceLoop
from wav2lip_npu.serve.engine_options import EngineOptions
from wav2lip_npu.serve.queue import JobQueue
from wav2lip_npu.serve.store import OUTPUT, Store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store whose jobs are done by `ScriptedWorker`s, in forked processes: a spawned one imports for a second."""
    forked = multiprocessing.get_context("forkserver")
    forked.set_forkserver_preload([*probe._PRELOAD, device_loop.__name__])
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: forked)
    monkeypatch.setattr(device_loop, "_FIRST_DELAY_S", 0.05)
    monkeypatch.setattr(device_loop, "StartServeWorker", ScriptedWorker)
    return Store(tmp_path / "data")


@pytest.fixture
def queue(store: Store) -> JobQueue:
    return JobQueue(store)


@pytest.fixture
def loop(store: Store, queue: JobQueue) -> Iterator[threading.Thread]:
    """The thread of a loop. A test starts it when its jobs are queued, so that they share a pass."""
    stopped = threading.Event()
    options = EngineOptions(folder=str(store.folder), timeout=None)
    thread = threading.Thread(target=DeviceLoop("cpu", queue, options, stopped).run)
    yield thread
    stopped.set()
    thread.join()


def test_each_job_ends_with_its_own_result(store: Store, loop: threading.Thread) -> None:
    scripts = ["ok 1", "unreadable", "full", "bug", "die", "once", "device", "ok 2"]
    ids = {script: queue_job(store, script, face=f"face {script}").id for script in scripts}
    ids["option"] = queue_job(store, "ok 3", options={"crf": 99}).id
    ids["model"] = queue_job(store, "ok 5", model="../x").id
    loop.start()
    ended = dict(zip(ids, wait_until_ended(store, *ids.values()), strict=True))
    for script in ("ok 1", "ok 2", "once"):
        video = ended[script]
        assert (video.status, video.progress, video.error) == ("completed", 100, None)
        assert (video.frames, video.seconds, video.size) == (FRAMES, 2.0, "8x6")
        assert video.report is not None
        assert (video.report["face"], video.report["outfile"]) == ("talk.mp4", "out.mp4")
    errors = {script: video.error for script, video in ended.items() if video.error}
    assert errors["unreadable"] == {
        "code": "media",
        "message": "cannot decode talk.mp4, cannot write out.mp4.",
    }
    assert errors["full"]["code"] == "storage" and "out.mp4" not in errors["full"]["message"]
    assert errors["bug"] == {"code": "bug", "message": "ZeroDivisionError: division by zero"}
    assert errors["die"] == {"code": "died", "message": "its process died (signal 9: Killed)"}
    assert errors["device"] == {"code": "bug", "message": "RuntimeError: the device is lost"}
    assert "--crf 99" in errors["option"]["message"]
    assert errors["option"]["code"] == "options"
    assert errors["model"]["code"] == "weights"
    assert state.counts(store)["completed"] == 3
    assert not [path for path in store.folder.rglob(OUTPUT) if path.parent.name not in ids.values()]


def test_cancelled_job_that_hangs_does_not_harm_the_others_of_its_pass(
    store: Store, loop: threading.Thread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_loop, "_CANCEL_S", 0.5)
    monkeypatch.setattr(device_loop, "_LOOK_EVERY_S", 0.1)
    before, hanging, after = (queue_job(store, script) for script in ("ok 1", "hang", "ok 2"))
    loop.start()
    wait_for(lambda: store.video(before.id).status == "completed")  # type: ignore[union-attr]
    assert store.video(after.id).status == "in_progress"  # type: ignore[union-attr]
    store.cancel(hanging.id)
    assert [video.status for video in wait_until_ended(store, before.id, hanging.id, after.id)] == [
        "completed",
        "cancelled",
        "completed",
    ]
    deaths = store.database.connection.execute("SELECT sum(deaths) FROM videos").fetchone()[0]
    assert deaths == 0
    wait_for(lambda: not store.video_folder(hanging.id).exists())


def test_worker_that_has_dropped_a_cancelled_job_goes_on_with_the_others(
    store: Store, queue: JobQueue, loop: threading.Thread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_loop, "_CANCEL_S", 0.5)
    monkeypatch.setattr(device_loop, "_LOOK_EVERY_S", 0.1)
    released: list[Sequence[str]] = []
    monkeypatch.setattr(queue, "release", released.append)
    leaving, other = queue_job(store, "leave"), queue_job(store, "long")
    loop.start()
    wait_for(lambda: store.video(other.id).status == "in_progress")  # type: ignore[union-attr]
    store.cancel(leaving.id)
    (video,) = wait_until_ended(store, other.id)
    assert video.status == "completed"
    assert not any(released)


def test_jobs_wait_for_a_device_that_is_not_there(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (store.folder / "no device").touch()
    video = queue_job(store, "ok")
    stopped = threading.Event()
    loop = DeviceLoop("cuda:3", JobQueue(store), EngineOptions(folder=str(store.folder)), stopped)
    thread = threading.Thread(target=loop.run)
    thread.start()
    wait_for(lambda: any(worker.state == "failed" for worker in state.workers(store)))
    (worker,) = state.workers(store)
    assert (worker.name, worker.state) == ("cuda:3", "failed")
    assert "cuda:3" in worker.detail
    assert store.video(video.id).status == "queued"  # type: ignore[union-attr]
    (store.folder / "no device").unlink()
    wait_until_ended(store, video.id)
    stopped.set()
    thread.join()


def test_two_devices_share_the_jobs(store: Store) -> None:
    stopped, idle = threading.Event(), set[str]()
    options = EngineOptions(folder=str(store.folder), in_flight=2)
    loops = [DeviceLoop(name, JobQueue(store), options, stopped, idle) for name in ("npu:0", "npu:1")]
    threads = [threading.Thread(target=loop.run) for loop in loops]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(idle) == 2)
    ids = [queue_job(store, f"long {number}", face=f"face {number}").id for number in range(2)]
    wait_until_ended(store, *ids)
    stopped.set()
    for thread in threads:
        thread.join()
    made = dict(line.split() for line in (store.folder / "made").read_text().splitlines())
    assert set(made) == set(ids)
    assert set(made.values()) == {"npu:0", "npu:1"}


def test_result_is_written_when_the_disk_has_space_again(
    store: Store, queue: JobQueue, loop: threading.Thread, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish, progress, failures = queue.finish, queue.progress, []

    def full(*_: object, **__: object) -> None:
        raise OutputError("the disk is full")

    def full_once(*values: object, **more: object) -> bool:
        if not failures:
            failures.append(1)
            raise OutputError("the disk is full")
        return finish(*values, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(queue, "progress", full)
    monkeypatch.setattr(queue, "finish", full_once)
    loop.start()
    (video,) = wait_until_ended(store, queue_job(store, "ok").id)
    assert (video.status, failures) == ("completed", [1])
    monkeypatch.setattr(queue, "progress", progress)


def test_job_that_takes_too_long_fails_alone(store: Store) -> None:
    stopped = threading.Event()
    options = EngineOptions(folder=str(store.folder), timeout=0.3)
    loop = DeviceLoop("cpu", JobQueue(store), options, stopped)
    hanging, good = queue_job(store, "hang"), queue_job(store, "ok")
    thread = threading.Thread(target=loop.run)
    thread.start()
    ended = wait_until_ended(store, hanging.id, good.id)
    stopped.set()
    thread.join()
    assert [video.status for video in ended] == ["failed", "completed"]
    assert ended[0].error is not None
    assert ended[0].error["code"] == "timeout"
