"""Read who speaks when: tables (CSV, JSON, the `segments` of sync.so) and RTTM files of diarisation."""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from wav2lip_npu.dubbing.dialogue import Turn
from wav2lip_npu.errors import UsageError
from wav2lip_npu.storage.regular_files import read_limited

_COLUMNS = ("who", "start", "end", "audio", "offset")
_DELIMITERS = ",;\t"
_MAX_BYTES = 64 << 20
_RTTM_FIELDS, _ONSET, _DURATION, _NAME = 8, 3, 4, 7
_RTTM_TYPES = (
    b"SPEAKER SPKR-INFO SEGMENT NOSCORE NO_RT_METADATA LEXEME NON-LEX NON-SPEECH FILLER EDIT IP SU CB A/P"
).split()
"""Fields of a line `SPEAKER file 1 onset duration <NA> <NA> name`, and their numbers."""


def read_turns(path: str | os.PathLike[str]) -> tuple[Turn, ...]:
    """Return the turns of a CSV with the columns who,start,end,audio, or of JSON with these names.

    JSON may also have the form of sync.so's API: `segments` with startTime, endTime and audioInput, whose
    refId is the name of the speaker or refers to `input`. Files are relative to the folder of the table.

    Raises:
        UsageError: The file cannot be read, or a row is invalid.

    """
    text = _text(path)
    rows = _json_rows(path, text) if text.lstrip()[:1] in ("[", "{") else _csv_rows(path, text)
    turns = tuple(_turn(path, number, row) for number, row in rows)
    if not turns:
        raise UsageError(f"no turns in {path}. Write a row who,start,end,audio for each.")
    return turns


def read_rttm(path: str | os.PathLike[str]) -> tuple[Turn, ...]:
    """Return the turns of an RTTM file. Raises `UsageError` if it cannot be read."""
    turns = []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        fields = line.split()
        if not fields or fields[0] != "SPEAKER":
            continue
        try:
            start, duration = float(fields[_ONSET]), float(fields[_DURATION])
            if duration:  # a short turn may be rounded to none
                turns.append(Turn(fields[_NAME], start, start + duration))
        except UsageError as error:
            raise UsageError(f"{path}, line {number}: {error}") from None
        except (ValueError, IndexError):
            raise UsageError(
                f"{path}, line {number}: {line:.80} is not RTTM. "
                "Write SPEAKER file 1 onset duration <NA> <NA> name <NA> <NA>."
            ) from None
    if not turns:
        raise UsageError(f"no turns in {path}: it has no line that begins with SPEAKER.")
    return tuple(turns)


def is_rttm(start: bytes) -> bool:
    """Return whether a file that begins so is an RTTM file."""
    lines = start.removeprefix(codecs.BOM_UTF8).splitlines()
    fields = [line.split() for line in lines if line.strip() and not line.lstrip().startswith(b";")]
    return bool(fields) and fields[0][0] in _RTTM_TYPES and len(fields[0]) > 1


def _text(path: str | os.PathLike[str]) -> str:
    try:
        return read_limited(path, _MAX_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}. Check its path.") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text. Save it as CSV in UTF-8.") from None


def _csv_rows(path: str | os.PathLike[str], text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    first = text.lstrip().split("\n", 1)[0]
    delimiter = max(_DELIMITERS, key=first.count)
    lines = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    names = [name.strip() for name in lines.fieldnames or ()]
    if missing := [name for name in ("who", "start") if name not in names]:
        raise UsageError(
            f"{path} has no column {' and no '.join(missing)}: its header is {first!r:.200}. "
            f"A table of turns has the columns who,start,end,audio."
        )
    if unknown := [name for name in names if name not in _COLUMNS]:
        raise UsageError(f"{path}: unknown column {unknown[0]!r}. The columns are {', '.join(_COLUMNS)}.")
    lines.fieldnames = names
    for row in lines:
        if any(cell for cell in row.values()):
            yield lines.line_num, row


def _json_rows(path: str | os.PathLike[str], text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not JSON: {error}.") from None
    rows, inputs = content, {}
    if isinstance(content, dict):
        rows, inputs = content.get("segments"), _inputs(content.get("input"))
    if not isinstance(rows, list):
        raise UsageError(f"{path} is not a list of turns. Write [{{who, start, end, audio}}, ...].")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise UsageError(f"{path}, turn {number}: {row!r:.80} is not an object.")
        yield number, _of_segment(row, inputs) if "startTime" in row else row


def _inputs(content: Any) -> dict[Any, Any]:
    """Return the files of sync.so's `input` by their refId."""
    items = content if isinstance(content, list) else []
    return {item.get("refId"): item.get("url") for item in items if isinstance(item, dict)}


def _of_segment(row: Mapping[str, Any], inputs: Mapping[Any, Any]) -> dict[str, Any]:
    audio = row.get("audioInput")
    audio = audio if isinstance(audio, dict) else {}
    name = audio.get("refId")
    return {
        "who": name,
        "start": row.get("startTime"),
        "end": row.get("endTime"),
        "audio": inputs.get(name),
        "offset": audio.get("startTime"),
    }


def _turn(path: str | os.PathLike[str], number: int, row: Mapping[str, Any]) -> Turn:
    try:
        values = {name: value for name, value in row.items() if value not in (None, "")}
        if unknown := [name for name in values if name not in _COLUMNS]:
            raise UsageError(f"unknown column {unknown[0]!r}. The columns are {', '.join(_COLUMNS)}.")
        for name in ("start", "end", "offset"):
            if name in values:
                values[name] = _seconds(name, values[name])
        if not {"who", "start"} <= values.keys():
            raise UsageError("a turn needs who and start.")
        if isinstance(audio := values.get("audio"), str):
            values["audio"] = os.path.join(os.path.dirname(path), audio)
        return Turn(**values)
    except UsageError as error:
        raise UsageError(f"{path}, row {number}: {error}") from None


def _seconds(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UsageError(f"{name} {value!r:.40} is not a number of seconds.") from None
