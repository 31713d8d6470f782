"""Items in worker processes: if a process dies, at most its item is lost."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from wav2lip_npu.errors import DataError, DeviceError
from wav2lip_npu.parallel.processes import map_in_processes, run_in_processes
from wav2lip_npu.parallel.work_queue import Failure, WorkQueue

ROOT = Path(__file__).resolve().parents[2]


def start_worker(folder: str, number: int) -> Callable[[str], tuple[str, int]]:
    """Start a worker that behaves as the name of an item says; runs in another process."""
    if (Path(folder) / "no start").exists():
        os.kill(os.getpid(), signal.SIGKILL)

    def work(item: str) -> tuple[str, int]:
        tried = Path(folder) / item
        if item.startswith("die") or (item.startswith("once") and not tried.exists()):
            tried.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if item.startswith("exit"):
            os._exit(3)
        if item.startswith("bug"):
            raise ZeroDivisionError("division by zero")
        if item.startswith("stop"):
            raise DataError("the disk is full")
        if item.startswith("sleep"):
            (Path(folder) / f"{os.getpid()}.pid").touch()
            time.sleep(60)
        return item, os.getpid()

    return work


def start_streaming_worker(folder: str, name: str) -> Callable[[str], Iterator[tuple[str, str]]]:
    """Start a worker that yields the first letters of an item with its own name, then behaves as it says."""
    work = start_worker(folder, 0)

    def letters(item: str) -> Iterator[tuple[str, str]]:
        for letter in item[:2]:
            yield letter, name
        work(item)

    return letters


class OpenQueue(WorkQueue[str]):
    """A queue that may get further items while it is open."""

    is_open = True


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_gone(folder: Path) -> bool:
    """Return whether the processes that slept in a folder have ended."""
    for path in folder.glob("*.pid"):
        try:
            if Path(f"/proc/{path.stem}/cmdline").read_bytes():
                return False
        except OSError:
            continue
    return True


def test_one_worker_runs_in_this_process(tmp_path):
    results = dict(map_in_processes(["a", "bug", "b"], partial(start_worker, str(tmp_path)), 1))
    assert results["a"] == ("a", os.getpid())
    assert results["b"] == ("b", os.getpid())
    assert results["bug"] == Failure("ZeroDivisionError: division by zero", "bug")
    with pytest.raises(DataError, match="disk"):
        list(map_in_processes(["stop"], partial(start_worker, str(tmp_path)), 1))


def test_items_that_kill_their_worker_are_retried_once(tmp_path):
    good = [f"good{i}" for i in range(6)]
    items = ["die", "once", *good, "bug", "exit"]
    results = dict(map_in_processes(items, partial(start_worker, str(tmp_path)), 2))
    assert {results[item][0] for item in good} == set(good)
    assert results["once"][0] == "once"
    assert results["die"].detail == "its process died (signal 9: Killed)"
    assert results["exit"].detail == "its process died (exit code 3)"
    assert results["bug"].detail == "ZeroDivisionError: division by zero"
    assert os.getpid() not in {results[item][1] for item in good}
    assert set(list(results)[-4:]) == {"die", "once", "bug", "exit"}  # retries come last


def test_wav2lip_error_ends_all_workers(tmp_path):
    with pytest.raises(DataError, match="disk"):
        list(map_in_processes(["stop", "sleep", "sleep"], partial(start_worker, str(tmp_path)), 2))


def test_worker_that_cannot_start(tmp_path):
    (tmp_path / "no start").touch()
    with pytest.raises(DeviceError, match="signal 9"):
        list(run_in_processes(["0"], WorkQueue(["a"]), partial(start_worker, str(tmp_path))))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_the_process_that_started_them(tmp_path, number):
    script = tmp_path / "main.py"
    script.write_text(
        "import sys; from functools import partial; import tests.parallel.test_processes as t\n"
        "if __name__ == '__main__':\n"
        "    import signal; signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))\n"
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "    list(t.map_in_processes(['sleep1', 'sleep2'], partial(t.start_worker, sys.argv[1]), 2))\n"
    )
    words = [sys.executable, script, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL, env=environment) as child:
        wait_for(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
        assert not is_gone(tmp_path)
        child.send_signal(number)
        child.wait(60)
    wait_for(lambda: is_gone(tmp_path))


def test_closing_early_ends_the_workers(tmp_path):
    results = map_in_processes(["sleep", "a"], partial(start_worker, str(tmp_path)), 2)
    assert next(results)[0] == "a"
    wait_for(lambda: bool(list(tmp_path.glob("*.pid"))))
    results.close()
    assert is_gone(tmp_path)


def test_results_arrive_one_by_one(tmp_path):
    start = partial(start_streaming_worker, str(tmp_path))
    answers = list(run_in_processes(["left", "right"], WorkQueue(["ab", "cd", "ef"]), start))
    results = [(item, result[0]) for item, result in answers if result is not None]
    assert sorted(results) == [(item, letter) for item in ("ab", "cd", "ef") for letter in item]
    assert {result[1] for _, result in answers if result is not None} <= {"left", "right"}
    assert sorted(item for item, result in answers if result is None) == ["ab", "cd", "ef"]


def test_item_that_times_out_is_stopped_and_its_worker_replaced(tmp_path):
    queue, start = WorkQueue(["sleep", "ab"]), partial(start_streaming_worker, str(tmp_path))
    answers = run_in_processes(["0"], queue, start, lambda item: 0.5 if "sleep" in item else None)
    ends = {item: result for item, result in answers if result is None or isinstance(result, Failure)}
    assert ends == {"sleep": Failure("it took longer than 0.5 s", "timeout"), "ab": None}
    assert is_gone(tmp_path)


def test_consumer_may_put_items_back_and_add_later_ones(tmp_path):
    queue, failed = OpenQueue(["die"]), []
    for item, result in run_in_processes(["0"], queue, partial(start_streaming_worker, str(tmp_path))):
        if isinstance(result, Failure):
            failed.append(item)
            if len(failed) == 1:
                queue.put(["die"])
            else:
                threading.Timer(0.7, queue.put, [["ab"]]).start()  # until then, the queue is empty
        queue.is_open = result is not None
    assert failed == ["die", "die"]
    assert len(queue) == 0


@pytest.mark.parametrize("delay", [0.05, 0.3, 0.8])
def test_workers_killed_at_any_moment_are_replaced(tmp_path, delay):
    """Kill workers while they start, work and wait."""
    killed = []

    def kill() -> None:
        time.sleep(delay)
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)
            killed.append(child.pid)

    queue = OpenQueue(["ab"])
    killer = threading.Thread(target=kill)
    ended = 0
    results = run_in_processes(["0", "1"], queue, partial(start_streaming_worker, str(tmp_path)))
    killer.start()
    for item, result in results:
        if isinstance(result, Failure):
            queue.put([item])
        ended += result is None
        if ended == 1:
            killer.join()
            queue.put(["cd"])
        queue.is_open = ended < 2
    assert ended >= 2
    assert killed
