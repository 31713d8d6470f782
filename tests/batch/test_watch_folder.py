"""Tables that are dropped into a folder are picked up whole and once."""

from __future__ import annotations

import os
import shutil
import time

import pytest

from wav2lip_npu.batch.watch_folder import Inbox
from wav2lip_npu.errors import DataError


def old(path) -> None:
    """As if it had been written a minute ago."""
    os.utime(path, (time.time() - 60, time.time() - 60))


def test_each_table_once(tmp_path):
    inbox = Inbox(tmp_path, tmp_path / "report.jsonl")
    for name in ("b.csv", "a.jsonl", "c.json", "film.mp4", "report.jsonl", ".hidden.csv", "half.csv.part"):
        (tmp_path / name).write_text("x")
        old(tmp_path / name)
    (tmp_path / "folder.csv").mkdir()
    assert {path.name for path in inbox.take()} == {"a.jsonl", "b.csv", "c.json"}
    assert inbox.take() == []
    (tmp_path / "d.csv").write_text("x")
    old(tmp_path / "d.csv")
    assert inbox.take() == [tmp_path / "d.csv"]


def test_one_that_is_still_written_to_is_waited_for(tmp_path):
    inbox = Inbox(tmp_path)
    table = tmp_path / "a.csv"
    table.write_text("face,aud")
    assert inbox.take() == []
    with table.open("a") as file:
        file.write("io,outfile\n")
    assert inbox.take() == []
    assert inbox.take() == [table]
    assert inbox.take() == []


def test_one_that_is_written_anew_is_another(tmp_path):
    inbox = Inbox(tmp_path)
    table = tmp_path / "a.csv"
    table.write_text("one")
    old(table)
    assert inbox.take() == [table]
    table.write_text("another")
    assert (inbox.take(), inbox.take()) == ([], [table])
    table.unlink()
    assert inbox.take() == []


def test_a_folder_that_goes(tmp_path):
    folder = tmp_path / "inbox"
    folder.mkdir()
    inbox = Inbox(folder)
    assert inbox.take() == []
    shutil.rmtree(folder)
    with pytest.raises(DataError, match="is gone"):
        inbox.take()
