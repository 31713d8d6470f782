"""Reports of one JSON object per line."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest

from wav2lip_npu.errors import DataError
from wav2lip_npu.storage.json_lines import JsonLines, format_counts


@dataclass
class Record:
    job: str
    status: str


@pytest.fixture
def report(tmp_path):
    return JsonLines(tmp_path / "report.jsonl", Record, "job", "Pass another --report.")


def test_last_row_of_a_key_is_used(report):
    for row in (Record("a", "failed"), Record("b", "done"), Record("a", "done")):
        report.append(row)
    assert report.read() == {"a": Record("a", "done"), "b": Record("b", "done")}


def test_missing_file_has_no_rows(report):
    assert report.read() == {}


def test_append_after_an_incomplete_line(report):
    report.append(Record("a", "done"))
    report.path.write_bytes(report.path.read_bytes() + b'{"job": "b", "sta')
    report.append(Record("c", "done"))
    assert list(report.read()) == ["a", "c"]


def test_rewrite_replaces_the_rows_in_order(report):
    report.append(Record("b", "done"))
    report.rewrite([Record("a", "done"), Record("b", "done")])
    lines = report.path.read_text().splitlines()
    assert lines == ['{"job": "a", "status": "done"}', '{"job": "b", "status": "done"}']


def test_rows_of_another_version_are_skipped(report):
    report.path.write_text('{"job": "a", "status": "done", "new": 1}\n')
    assert report.read() == {}


def test_foreign_file_raises(report):
    report.path.write_text("name,age\nx,1\n")
    with pytest.raises(DataError, match=r"report\.jsonl"):
        report.read()


def test_unreadable_and_unwritable_file_raises(report):
    report.path.mkdir()
    for use in (report.read, lambda: report.append(Record("a", "done")), lambda: report.rewrite([])):
        with pytest.raises(DataError, match=r"report\.jsonl"):
            use()


def test_counts_are_sorted():
    assert format_counts(Counter({"no face": 1, "too short": 3})) == "3 too short, 1 no face"
