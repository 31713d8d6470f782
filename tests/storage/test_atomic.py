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


def test_block_that_writes_nothing_raises(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "x"):
        pass
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
    others = ["list (2).txt", part_path(tmp_path / "other").name, part_path(target).name, "list (1).txt.part"]
    for name in others:
        (tmp_path / name).touch()
    remove_stale_parts(target)
    assert sorted(os.listdir(tmp_path)) == sorted(others)
    remove_stale_parts(tmp_path / "none" / "x")


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
