"""Items are worked through in processes, and no death of one costs more than its item."""

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
from wav2lip_npu.parallel.processes import Failure, Pile, map_in_processes, run_in_processes

ROOT = Path(__file__).resolve().parents[2]


def prepare(folder: str, number: int) -> Callable[[str], tuple[str, int]]:
    """A worker that does what an item says; runs in another process."""
    if (Path(folder) / "no start").exists():
        os.kill(os.getpid(), signal.SIGKILL)

    def work(item: str) -> tuple[str, int]:
        tries = Path(folder) / item
        if item.startswith("die") or (item.startswith("once") and not tries.exists()):
            tries.touch()
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


def test_one_worker_works_here(tmp_path):
    results = dict(map_in_processes(["a", "bug", "b"], partial(prepare, str(tmp_path)), 1))
    assert results["a"] == ("a", os.getpid())
    assert results["b"] == ("b", os.getpid())
    assert results["bug"] == Failure("ZeroDivisionError: division by zero", "bug")
    with pytest.raises(DataError, match="disk"):
        list(map_in_processes(["stop"], partial(prepare, str(tmp_path)), 1))


def test_an_item_that_kills_its_worker_is_tried_once_more_and_costs_no_other(tmp_path):
    good = [f"good{i}" for i in range(6)]
    items = ["die", "once", *good, "bug", "exit"]
    results = dict(map_in_processes(items, partial(prepare, str(tmp_path)), 2))
    assert {results[item][0] for item in good} == set(good)
    assert results["once"][0] == "once"
    assert results["die"].detail == "its process died (signal 9: Killed)"
    assert results["exit"].detail == "its process died (exit code 3)"
    assert results["bug"].detail == "ZeroDivisionError: division by zero"
    assert os.getpid() not in {results[item][1] for item in good}
    assert list(results)[-4:] != items[-4:]  # what failed came last


def test_what_stops_one_stops_all(tmp_path):
    with pytest.raises(DataError, match="disk"):
        list(map_in_processes(["stop", "sleep", "sleep"], partial(prepare, str(tmp_path)), 2))
    (tmp_path / "no start").touch()
    with pytest.raises(DeviceError, match="a worker could not start.*signal 9"):
        list(map_in_processes(["a", "b"], partial(prepare, str(tmp_path)), 2))


def running(folder: Path) -> list[int]:
    """Workers that have begun to sleep and live."""
    found = [int(path.stem) for path in folder.glob("*.pid")]
    return [process for process in found if Path(f"/proc/{process}/cmdline").read_bytes()] if found else []


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def gone(folder: Path) -> bool:
    for path in folder.glob("*.pid"):
        try:
            if Path(f"/proc/{path.stem}/cmdline").read_bytes():
                return False
        except OSError:
            continue
    return True


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_workers_end_with_the_process_that_started_them(tmp_path, number):
    code = (
        "import sys; from functools import partial; import tests.parallel.test_processes as t\n"
        "if __name__ == '__main__':\n"
        "    import signal; signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))\n"
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "    list(t.map_in_processes(['sleep1', 'sleep2'], partial(t.prepare, sys.argv[1]), 2))\n"
    )
    script = tmp_path / "main.py"
    script.write_text(code)
    words = [sys.executable, script, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL, env=environment) as child:
        wait_for(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
        assert len(running(tmp_path)) == 2
        child.send_signal(number)
        child.wait(10)
    wait_for(lambda: gone(tmp_path))


def test_closing_early_ends_the_workers(tmp_path):
    results = map_in_processes(["sleep", "a"], partial(prepare, str(tmp_path)), 2)
    assert next(results)[0] == "a"
    wait_for(lambda: bool(list(tmp_path.glob("*.pid"))))
    results.close()
    assert gone(tmp_path)


def stream(folder: str, place: str) -> Callable[[str], Iterator[tuple[str, str]]]:
    """A worker that gives each letter of an item with its place, and then does what the item says."""
    work = prepare(folder, 0)

    def letters(item: str) -> Iterator[tuple[str, str]]:
        for letter in item[:2]:
            yield letter, place
        work(item)

    return letters


class Later(Pile[str]):
    """A board that gets more as long as it is open."""

    is_open = True


def test_results_come_one_by_one_and_with_the_place(tmp_path):
    heard = list(
        run_in_processes(["left", "right"], Pile(["ab", "cd", "ef"]), partial(stream, str(tmp_path)))
    )
    said = [(item, result[0]) for item, result in heard if result is not None]
    assert sorted(said) == [(item, letter) for item in ("ab", "cd", "ef") for letter in item]
    assert {result[1] for _, result in heard if result is not None} <= {"left", "right"}
    assert sorted(item for item, result in heard if result is None) == ["ab", "cd", "ef"]


def test_an_item_that_takes_too_long_is_ended_and_its_worker_replaced(tmp_path):
    board = Pile(["sleep1", "ab", "sleep2", "cd"])
    start = time.monotonic()
    heard = list(
        run_in_processes(
            ["0"], board, partial(stream, str(tmp_path)), lambda item: 0.5 if "sleep" in item else None
        )
    )
    assert time.monotonic() - start < 20
    ends = {item: result for item, result in heard if result is None or isinstance(result, Failure)}
    assert ends == {
        "sleep1": Failure("it took longer than 0.5 s", "timeout"),
        "ab": None,
        "sleep2": Failure("it took longer than 0.5 s", "timeout"),
        "cd": None,
    }
    assert gone(tmp_path)


def test_who_takes_the_results_may_put_items_back(tmp_path):
    board, tried = Later(["die", "ab"]), []
    for item, result in run_in_processes(["0"], board, partial(stream, str(tmp_path))):
        if isinstance(result, Failure):
            tried.append(item)
            if len(tried) < 3:
                board.put(["die"])
        board.is_open = len(tried) < 3
    assert tried == ["die"] * 3


def test_what_comes_later_is_done(tmp_path):
    board = Later([])

    def drop() -> None:
        time.sleep(1)
        board.put(["ab"])

    threading.Thread(target=drop).start()
    for _, result in run_in_processes(["0"], board, partial(stream, str(tmp_path))):
        board.is_open = result is not None
    assert len(board) == 0


@pytest.mark.parametrize("when", [0.05, 0.3, 0.8])
def test_workers_killed_at_any_moment_are_replaced(tmp_path, when):
    """While they start, while they work and while they wait."""
    killed = []

    def kill() -> None:
        time.sleep(when)
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)
            killed.append(child.pid)

    board = Later(["ab"])
    killer = threading.Thread(target=kill)
    ended = 0
    results = run_in_processes(["0", "1"], board, partial(stream, str(tmp_path)))
    killer.start()
    for item, result in results:
        if isinstance(result, Failure):
            board.put([item])
        ended += result is None
        if ended == 1:
            killer.join()
            board.put(["cd"])
        board.is_open = ended < 2
    assert ended >= 2
    assert killed
