"""Reports of one JSON object per line."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from wav2lip_npu.errors import DataError
from wav2lip_npu.storage import json_lines
from wav2lip_npu.storage.json_lines import JsonLines, format_counts
from wav2lip_npu.storage.json_types import matches


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


@pytest.mark.parametrize(
    "content",
    [
        "my only notes",
        "my only notes\n",
        "[1]",
        "5\n",
        '{"job": "a"}',
        '{"name": 1',
        "\0" * 100,
        "[" * 200_000,
        "{ }",
    ],
)
def test_foreign_file_of_one_line_raises(report, content):
    """A5: a file with one foreign line, with or without a line break, is refused."""
    report.path.write_text(content)
    with pytest.raises(DataError, match=r"report\.jsonl"):
        report.read()
    assert report.path.read_text() == content


@pytest.mark.parametrize("size", range(1, 29))
def test_report_with_one_incomplete_line_is_a_report(report, size):
    """A5: a run that was killed during its first line can be resumed."""
    report.path.write_text('{"job": "a", "status": "done"}'[:size])
    assert report.read() == {}
    report.append(Record("c", "done"))
    assert list(report.read()) == ["c"]


DAMAGED = [
    '{"job": [1], "status": "done"}',
    '{"job": "x", "status": 5}',
    '{"job": "x", "status": null}',
    '{"job": {"a": 1}, "status": "done"}',
    '{"job": "x", "status": "done", "other": 1}',
    '{"job": "x"}',
    "5",
    "[" * 200_000,
    '{"job": "x", "status": ' + '{"a":' * 100_000,
    "\xff\xfe",
    '{"job": "' + "x" * 2000,
]


@pytest.mark.parametrize("line", DAMAGED)
def test_damaged_line_is_reported_and_skipped(report, caplog, monkeypatch, line):
    """A13: values of another type, deep nesting, and lines that are not JSON."""
    monkeypatch.setattr(json_lines, "_MAX_LINE", 1000)
    good = '{"job": "a", "status": "done"}\n'
    report.path.write_text(good + line + "\n" + good.replace('"a"', '"b"'), encoding="latin-1")
    assert report.read() == {"a": Record("a", "done"), "b": Record("b", "done")}
    (message,) = [record.getMessage() for record in caplog.records]
    assert str(report.path) in message and "line 2" in message


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (1, int, True), (True, int, False), (1.5, int, False), (1, float, True), ("1", float, False),
        (None, int | None, True), ([[1, 2]], list[tuple[int, int]], True), ([[1]], list[tuple[int, int]], False),
        ({"a": 1}, dict[str, int], True), ({"a": "b"}, dict[str, int], False), (5, dict[str, Any], False),
        ("ok", Literal["ok"], True), ("no", Literal["ok"], False), ([], Literal["ok"], False),
    ],
)  # fmt: skip
def test_types_of_json_values(value, hint, expected):
    assert matches(value, hint) is expected


def test_unreadable_and_unwritable_file_raises(report):
    report.path.mkdir()
    for use in (report.read, lambda: report.append(Record("a", "done")), lambda: report.rewrite([])):
        with pytest.raises(DataError, match=r"report\.jsonl"):
            use()


def test_counts_are_sorted():
    assert format_counts(Counter({"no face": 1, "too short": 3})) == "3 too short, 1 no face"
