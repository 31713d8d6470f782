"""Tables in a watched folder are returned complete and once."""

from __future__ import annotations

import os
import shutil
import time

import pytest

from wav2lip_npu.batch.jobs import Job, read_jobs
from wav2lip_npu.batch.watch_folder import WatchFolder
from wav2lip_npu.errors import DataError, UsageError


def old(path) -> None:
    """Set the modification time to a minute ago."""
    os.utime(path, (time.time() - 60, time.time() - 60))


def test_each_table_is_returned_once(tmp_path):
    watched = WatchFolder(tmp_path, tmp_path / "report.jsonl")
    for name in ("b.csv", "a.jsonl", "c.json", "film.mp4", "report.jsonl", ".hidden.csv", "half.csv.part"):
        (tmp_path / name).write_text("x")
        old(tmp_path / name)
    (tmp_path / "folder.csv").mkdir()
    assert {path.name for path in watched.new_tables()} == {"a.jsonl", "b.csv", "c.json"}
    assert watched.new_tables() == []
    (tmp_path / "d.csv").write_text("x")
    old(tmp_path / "d.csv")
    assert watched.new_tables() == [tmp_path / "d.csv"]


def test_table_that_is_being_written(tmp_path):
    watched = WatchFolder(tmp_path)
    table = tmp_path / "a.csv"
    table.write_text("face,aud")
    assert watched.new_tables() == []
    with table.open("a") as file:
        file.write("io,outfile\n")
    assert watched.new_tables() == []
    assert watched.new_tables() == [table]
    assert watched.new_tables() == []


def test_modified_table_is_new(tmp_path):
    watched = WatchFolder(tmp_path)
    table = tmp_path / "a.csv"
    table.write_text("one")
    old(table)
    assert watched.new_tables() == [table]
    table.write_text("another")
    assert (watched.new_tables(), watched.new_tables()) == ([], [table])
    table.unlink()
    assert watched.new_tables() == []


def test_folder_that_is_removed(tmp_path):
    folder = tmp_path / "inbox"
    folder.mkdir()
    watched = WatchFolder(folder)
    assert watched.new_tables() == []
    shutil.rmtree(folder)
    with pytest.raises(DataError, match="inbox"):
        watched.new_tables()


def test_unreadable_tables_are_returned_to_be_reported_once(tmp_path):
    """A10: a link to itself, a FIFO or a link to a device does not end the watch."""
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    (tmp_path / "null.json").symlink_to("/dev/null")
    (tmp_path / "gone.csv").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo.jsonl")
    os.utime(tmp_path / "fifo.jsonl", (0, 0))
    watched = WatchFolder(tmp_path)
    tables = [*watched.new_tables(), *watched.new_tables()]
    assert sorted(path.name for path in tables) == ["fifo.jsonl", "loop.csv", "null.json"]
    for table in tables:
        with pytest.raises(UsageError, match=table.name):
            read_jobs(table, Job(face="", audio="", outfile=""))
    assert watched.new_tables() == []
