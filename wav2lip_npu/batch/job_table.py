"""Job tables: rows of CSV and JSON files, and the options that a row sets.

Problems are returned as messages, so that all problems of a table are reported at once.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import itertools
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from wav2lip_npu.errors import UsageError, Wav2LipError
from wav2lip_npu.options import SWITCHES, closest, fields_of
from wav2lip_npu.storage.regular_files import read_limited

Options = TypeVar("Options")
Names = Sequence[str]

TABLE_SUFFIXES = (".csv", ".jsonl", ".ndjson", ".json")
TABLE_FILES = re.compile(rf".*({'|'.join(map(re.escape, TABLE_SUFFIXES))})", re.IGNORECASE | re.DOTALL)
EMPTY = (None, "")
"""Values that leave the default unchanged."""
_DELIMITERS = ",;\t"
"""In countries with a decimal comma, spreadsheets separate cells with semicolons."""
_NUL = "\0"
_RAW = "surrogateescape"
_MAX_BYTES = 1 << 30
"""Size limit of a table, about ten million rows."""


@dataclass(frozen=True)
class Row:
    """One row of a table."""

    number: int
    """CSV: row number in a spreadsheet, where the header is 1. JSON Lines: line. JSON: position from 1."""
    values: dict[str, Any] | None
    """Values of the known columns; `None` if the row is unreadable."""
    problems: list[str] = field(default_factory=list)


def read_rows(path: str | os.PathLike[str], known: Names, required: Names) -> Iterator[Row]:
    """Yield the rows of a .csv, .jsonl, .ndjson or .json file; problems of a CSV header are yielded as a row.

    Raises:
        UsageError: The file cannot be read as a table, or a CSV lacks a required column.

    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix == ".csv":
        return _csv_rows(path, known, required)
    if suffix in (".jsonl", ".ndjson"):
        return _json_lines(path, known)
    if suffix == ".json":
        return _json_rows(path, known)
    raise UsageError(f"unknown table format {path}. Pass a .csv, .jsonl, .ndjson or .json file.")


def _csv_rows(path: str | os.PathLike[str], known: Names, required: Names) -> Iterator[Row]:
    text = _read_text(path, _RAW)  # file names may contain any bytes
    is_utf8 = text.isascii() or not _has_raw_bytes(text)

    def required_cells(delimiter: str) -> int:
        _, cells = next(_records(text, delimiter), (0, ""))
        return sum(cell.strip() in required for cell in cells)

    delimiter = max(_DELIMITERS, key=required_cells)
    records = _records(text, delimiter)
    number, header = next(records, (0, ""))
    if not number:
        return
    names = [cell.strip() for cell in header]
    if any(cell.startswith(" ") for cell in header[1:]):  # cells are separated by a delimiter and a blank
        records = _records(text, delimiter, skip_blank=True)
        next(records)
    if missing := [name for name in required if name not in names]:
        line = text.lstrip().splitlines()[0]
        raise UsageError(
            f"{path} has no column {' and no '.join(missing)}: its header is {line!r:.200}. "
            f"A table needs the columns {','.join(required)}."
        )
    if problems := _column_problems(names, known):
        yield Row(number, None, problems)
    for number, cells in records:
        if isinstance(cells, str):
            yield Row(number, None, [cells])
            continue
        if not is_utf8:
            _check_raw_names(path, number, cells)
        pairs = list(itertools.zip_longest(names, cells, fillvalue=""))
        if stray := [cell for name, cell in pairs if not name and cell.strip()]:
            advice = f"Put double quotes around cells that contain {delimiter!r}, or name the column."
            yield Row(number, None, [f"{stray[0]!r:.80} is in a column without a name. {advice}"])
        else:
            yield Row(number, {name: cell for name, cell in pairs if name in known})


def _has_raw_bytes(text: str) -> bool:
    return any("\udc80" <= char <= "\udcff" for char in text)


def _check_raw_names(path: str | os.PathLike[str], number: int, cells: Sequence[str]) -> None:
    """Raise `UsageError` if a row has bytes that are not UTF-8 and not the name of an existing file.

    File names may contain any bytes. Without such a file, the table is probably in another encoding, such as
    Windows-1252 from Excel, and the names of its outputs would be wrong.
    """
    raw = [cell for cell in cells if _has_raw_bytes(cell)]
    if raw and not any(os.path.exists(os.path.join(os.path.dirname(path), cell)) for cell in raw):
        shown = os.fsencode(raw[0]).decode("cp1252", "replace")
        raise UsageError(
            f"{path} is not UTF-8 text, first in row {number}: {shown!r:.80}. Save it as CSV UTF-8."
        )


def _records(text: str, delimiter: str, *, skip_blank: bool = False) -> Iterator[tuple[int, list[str] | str]]:
    """Yield number and cells of each non-blank line; a message instead of cells if it is not CSV."""
    source = io.StringIO(text, newline="")
    lines = csv.reader(source, delimiter=delimiter, skipinitialspace=skip_blank, strict=True)
    for number in itertools.count(1):
        try:
            cells = next(lines, None)
        except csv.Error as error:
            yield number, f"not CSV: {error}. Close each double quote, and double those inside quotes."
            continue
        if cells is None:
            return
        if any(map(str.strip, cells)):
            yield number, cells


def _json_lines(path: str | os.PathLike[str], known: Names) -> Iterator[Row]:
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if line.strip():
            try:
                yield _json_row(number, _parse_json(line), known)
            except UsageError as error:
                yield Row(number, None, [f"{error} Write one JSON object per line."])


def _json_rows(path: str | os.PathLike[str], known: Names) -> Iterator[Row]:
    try:
        content = _parse_json(_read_text(path))
    except UsageError as error:
        raise UsageError(f"{path}: {error} Write a list with a JSON object per row.") from None
    for number, entry in enumerate(content if isinstance(content, list) else [content], start=1):
        yield _json_row(number, entry, known)


def _parse_json(text: str) -> Any:
    """Return the content; objects as tuples of pairs, so that duplicate names can be reported."""
    try:
        return json.loads(text, object_pairs_hook=tuple)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"not JSON: {error}.") from None


def _json_row(number: int, content: Any, known: Names) -> Row:
    if not isinstance(content, tuple):
        return Row(number, None, [f'{content!r:.80} is not a JSON object. Write {{"name": value}}.'])
    problems = _column_problems([name for name, _ in content], known)
    return Row(number, {name: value for name, value in content if name in known}, problems)


def _read_text(path: str | os.PathLike[str], errors: str = "strict") -> str:
    """Return the file as text without a byte order mark."""
    try:
        text = read_limited(path, _MAX_BYTES).decode("utf-8-sig", errors)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}. Check its path.") from None
    except UnicodeDecodeError:
        text = _NUL
    if _NUL in text:  # UTF-16, or a spreadsheet file
        raise UsageError(f"{path} is not UTF-8 text. Save it as CSV in UTF-8.")
    return text


def _column_problems(names: Names, known: Names) -> list[str]:
    problems = []
    for name in dict.fromkeys(filter(None, names)):
        if name not in known:
            advice = closest(name, known) or f"Remove it; the columns are {', '.join(known)}."
            problems.append(f"unknown column {name!r:.80}. {advice}")
        elif names.count(name) > 1:
            problems.append(f"column {name} occurs {names.count(name)} times. Keep one.")
    return problems


def column_names(options: Any) -> list[str]:
    """Return the names of all options, nested ones included."""
    return [name for name, _ in fields_of(options)]


def with_cells(options: Options, values: Mapping[str, Any]) -> tuple[Options, list[str]]:
    """Return the options with the values of a row, and the problems of invalid values.

    Text is parsed as in a CSV; JSON values are used unchanged. Empty values leave the default.
    """
    nested: Any = options
    types = _types(nested.__class__)
    changes: dict[str, Any] = {}
    problems: list[str] = []
    for option in dataclasses.fields(nested):
        default, value = getattr(nested, option.name), values.get(option.name)
        if dataclasses.is_dataclass(default):
            changes[option.name], more = with_cells(default, values)
            problems += more
        elif value not in EMPTY:
            parse, expected = _parser(types[option.name])
            try:
                changes[option.name] = parse(value)
            except (ValueError, TypeError, OverflowError, KeyError):
                problems.append(
                    f"{option.name} {value!r:.80} is not {expected}. Correct it or leave it empty."
                )
    try:
        return dataclasses.replace(nested, **changes), problems
    except Wav2LipError as error:
        return options, [*problems, str(error)]


@functools.cache
def _types(options: type) -> dict[str, Any]:
    """Return the types of the fields of a dataclass, `T` for `T | None`."""
    hints = get_type_hints(options)
    for name, hint in hints.items():
        if NoneType in get_args(hint):
            (hints[name],) = set(get_args(hint)) - {NoneType}
    return hints


def _parser(hint: Any) -> tuple[Callable[[Any], Any], str]:
    """Return the parser for values of a type, and a description of valid values."""
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        return functools.partial(_parse_choice, choices), f"one of {', '.join(map(str, choices))}"
    return _PARSERS[hint]


def _parse_choice(choices: tuple[Any, ...], value: Any) -> Any:
    return choices[choices.index(value)]


def _parse_text(value: Any) -> str:
    """Return text that can be a file name; JSON strings may contain characters that none can have."""
    if not isinstance(value, str) or _NUL in value:
        raise TypeError
    os.fsencode(value)
    return value


def _parse_number(value: Any) -> float:
    number = math.nan if isinstance(value, bool) else float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def _parse_integer(value: Any) -> int:
    """Return an integer. Accept 16.0, which spreadsheets write in columns with empty cells."""
    number = _parse_number(value)
    if not number.is_integer():
        raise ValueError
    return int(number)


def _parse_switch(value: Any) -> bool:
    return SWITCHES[str(value).strip().lower()]


def _parse_texts(value: Any) -> tuple[str, ...]:
    parts = value.split(";") if isinstance(value, str) else value
    return tuple(_parse_text(part).strip() for part in parts)


def _parse_four_integers(value: Any) -> tuple[int, ...]:
    parts: Iterable[Any] = value.replace(",", " ").split() if isinstance(value, str) else value
    top, bottom, left, right = map(_parse_integer, parts)
    return top, bottom, left, right


_PARSERS: dict[Any, tuple[Callable[[Any], Any], str]] = {
    str: (_parse_text, "text"),
    float: (_parse_number, "a number such as 29.97"),
    int: (_parse_integer, "a whole number"),
    bool: (_parse_switch, "true or false"),
    tuple[str, ...]: (_parse_texts, "a list, or text with semicolons"),
    tuple[int, int, int, int]: (_parse_four_integers, "four whole numbers, top bottom left right"),
}
