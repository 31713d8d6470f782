"""Locks of folders."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from wav2lip_npu.errors import OutputError
from wav2lip_npu.storage.locks import lock_folder, lock_output, lock_path, remove_stale_lock


def test_second_lock_fails_until_the_first_is_released(tmp_path):
    with lock_folder(tmp_path) as first:
        assert first
        with lock_folder(tmp_path) as second:
            assert not second
    with lock_folder(tmp_path) as third:
        assert third


def test_missing_folder_is_created(tmp_path):
    with lock_folder(tmp_path / "new" / "deep") as is_locked:
        assert is_locked
        (tmp_path / "new" / "deep" / "file").touch()
    assert (tmp_path / "new" / "deep" / "file").exists()


def test_unused_folder_is_removed(tmp_path):
    """A3: a run that is refused leaves no folder behind; an existing empty folder is kept."""
    (tmp_path / "old").mkdir()
    with lock_folder(tmp_path / "old" / "new" / "deep"):
        with lock_folder(tmp_path / "old" / "new" / "deep") as is_locked:
            assert not is_locked
        assert (tmp_path / "old" / "new" / "deep").is_dir()
    assert list((tmp_path / "old").iterdir()) == []


def test_folder_that_cannot_be_used_raises(tmp_path):
    """A11: the error names a folder that cannot be created or read."""
    (tmp_path / "file").touch()
    for name in ("file", "file/below"):
        with pytest.raises(OutputError, match=name), lock_folder(tmp_path / name):
            pass


def test_output_is_locked_until_the_first_lock_ends(tmp_path):
    """A14: the lock applies to any name of the folder, and no lock file remains."""
    (tmp_path / "link").symlink_to(tmp_path / "out")
    with lock_output(tmp_path / "out" / "a.mp4") as first:
        with (
            lock_output(tmp_path / "link" / "a.mp4") as second,
            lock_output(tmp_path / "out" / "b.mp4") as other,
        ):
            assert (first, second, other) == (True, False, True)
        remove_stale_lock(tmp_path / "out" / "a.mp4")
        with lock_output(tmp_path / "out" / "a.mp4", wait=0.3) as second:
            assert not second
    with lock_output(tmp_path / "out" / "a.mp4") as third:
        assert third
    assert os.listdir(tmp_path / "out") == []


def test_lock_of_a_killed_process_is_free(tmp_path):
    code = "import os, sys; from wav2lip_npu.storage.locks import _try_lock, lock_path; _try_lock(lock_path(sys.argv[1])); os.kill(os.getpid(), 9)"
    out = tmp_path / "a.mp4"
    subprocess.run([sys.executable, "-c", code, out], cwd=Path(__file__).parents[2], check=False)
    assert len(os.listdir(tmp_path)) == 1
    with lock_output(out) as is_locked:
        assert is_locked
    assert os.listdir(tmp_path) == []
    lock_path(out).touch()
    remove_stale_lock(out)
    assert os.listdir(tmp_path) == []


def test_many_threads_never_hold_the_same_lock(tmp_path):
    """A14: also while the lock file is removed and created again."""
    holders: list[int] = []
    most: list[int] = []

    def work() -> None:
        for _ in range(100):
            with lock_output(tmp_path / "a.mp4") as is_locked:
                if is_locked:
                    holders.append(1)
                    most.append(len(holders))
                    holders.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert os.listdir(tmp_path) == []


def test_output_in_a_folder_that_cannot_be_written_raises(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file/a\.mp4"), lock_output(tmp_path / "file" / "a.mp4"):
        pass
