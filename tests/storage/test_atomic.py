"""Atomic writes: either the old or the new file, and no temporary file is left."""

from __future__ import annotations

import dataclasses
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from wav2lip_npu.dubbing.report import DubReport
from wav2lip_npu.errors import OutputError
from wav2lip_npu.storage.atomic import part_path, remove_stale_parts, replacing


def test_folder_is_created_and_file_is_replaced(tmp_path):
    target = tmp_path / "a" / "b" / "x.json"
    for text in ("one", "two"):
        with replacing(target) as part:
            assert part.parent == target.parent
            part.write_text(text)
            assert not target.exists() or target.read_text() == "one"
        assert target.read_text() == text
    assert os.listdir(target.parent) == ["x.json"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_exception_keeps_the_old_file(tmp_path, error):
    target = tmp_path / "x.json"
    target.write_text("old")
    with pytest.raises(error), replacing(target) as part:
        part.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.json"]


def test_block_that_removes_the_temporary_file_raises(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "x") as part:
        part.unlink()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["x" * 255, "ü" * 127, "a%b\n;'\"", "x(1).*+[y]"])
def test_any_valid_name(tmp_path, name):
    with replacing(tmp_path / name) as part:
        part.write_text("whole")
    assert os.listdir(tmp_path) == [name]


def test_threads_use_different_temporary_names(tmp_path):
    names = []
    threads = [threading.Thread(target=lambda: names.append(part_path(tmp_path / "x"))) for _ in range(2)]
    with replacing(tmp_path / "x") as part:
        for thread in threads:
            thread.start()
            thread.join()
        part.write_text("whole")
    assert part not in names


def test_only_temporary_files_of_killed_writers_are_removed(tmp_path):
    code = "import sys, os, wav2lip_npu.storage.atomic as a; p = a.part_path(sys.argv[1]); p.touch(); os.kill(os.getpid(), 9)"
    target = tmp_path / "list (1).txt"
    subprocess.run([sys.executable, "-c", code, target], cwd=Path(__file__).parents[2], check=False)
    assert len(os.listdir(tmp_path)) == 1
    others = ["list (2).txt", part_path(tmp_path / "other").name, "list (1).txt.part"]
    for name in others:
        (tmp_path / name).touch()
    with replacing(target) as part:
        remove_stale_parts(target)
        assert sorted(os.listdir(tmp_path)) == sorted([*others, part.name])
    remove_stale_parts(tmp_path / "none" / "x")


def test_temporary_file_of_a_killed_writer_is_removed_by_the_next(tmp_path):
    """A7: the next writer of the same file removes it, even if a process with the same ID is running."""
    target = tmp_path / "x"
    part_path(target).with_name(part_path(target).name.replace(".part", "0.part")).write_text("half")
    part_path(target).write_text("half of this thread's number")
    with replacing(target) as part:
        part.write_text("whole")
    assert os.listdir(tmp_path) == ["x"]
    assert target.read_text() == "whole"


def test_temporary_file_in_use_is_kept(tmp_path):
    target = tmp_path / "x"
    with replacing(target) as part:
        part.write_text("first")
        other = threading.Thread(target=lambda: replacing(target).__enter__().write_text("other"))
        other.start()
        other.join()
        assert part.read_text() == "first"
    assert target.read_text() == "first"


def test_full_disk_keeps_the_old_report(tmp_path):
    values = {field.name: "x" * 5000 for field in dataclasses.fields(DubReport)}
    report = DubReport(**values)
    (tmp_path / "report.json").write_text("old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        with pytest.raises(OutputError, match="report.json: File too large"):
            report.write(tmp_path / "report.json")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert (tmp_path / "report.json").read_text() == "old"
    assert os.listdir(tmp_path) == ["report.json"]


def test_temporary_file_of_a_zombie_is_removed(tmp_path):
    """Without an init process, such as in some containers, dead orphans stay zombies."""
    target = tmp_path / "x"
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, not reaped
    left = Path(str(part_path(target)).replace(f".{os.getpid()}-", f".{child.pid}-"))
    left.touch()
    assert left != part_path(target)
    remove_stale_parts(target)
    assert not left.exists()
    child.wait()
