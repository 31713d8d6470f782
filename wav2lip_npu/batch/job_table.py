"""Rows of a table: read from CSV or JSON, and turned into options, which are a tree of dataclasses.

What is wrong with a row is a sentence in it, so that all that is wrong with a table is told at once.
"""

from __future__ import annotations

import csv
import dataclasses
import difflib
import functools
import io
import itertools
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from wav2lip_npu.errors import UsageError, Wav2LipError
from wav2lip_npu.options import SWITCHES, fields_of

Options = TypeVar("Options")
Names = Sequence[str]

TABLES = (".csv", ".jsonl", ".ndjson", ".json")
EMPTY = (None, "")  # says nothing: the default holds
_DELIMITERS = ",;\t"  # where the comma divides a number, spreadsheets write the semicolon
_NUL = "\0"


@dataclass(frozen=True)
class Row:
    """One row of a table."""

    number: int
    """As a spreadsheet counts, the header being 1; in JSON Lines the line; in JSON its place from 1."""
    values: dict[str, Any] | None
    """By column, of the known ones alone; `None` when they cannot be told."""
    faults: list[str] = field(default_factory=list)
    """What is wrong with it, whatever the values mean."""


def read_rows(path: str | os.PathLike[str], known: Names, required: Names) -> Iterator[Row]:
    """The rows of a .csv, .jsonl, .ndjson or .json file; the header of a CSV is one if it has faults.

    Raises `UsageError` when the file cannot be read as such, or a CSV lacks one of the required columns.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix == ".csv":
        return _csv_rows(path, known, required)
    if suffix in (".jsonl", ".ndjson"):
        return _json_lines(path, known)
    if suffix == ".json":
        return _json_rows(path, known)
    raise UsageError(f"unknown kind of table {path}. Pass a .csv, .jsonl, .ndjson or .json file.")


def _csv_rows(path: str | os.PathLike[str], known: Names, required: Names) -> Iterator[Row]:
    text = _text(path, "surrogateescape")  # the name of a file may be any bytes

    def shared(delimiter: str) -> int:
        _, cells = next(_records(text, delimiter), (0, ""))
        return sum(cell.strip() in required for cell in cells)

    delimiter = max(_DELIMITERS, key=shared)
    records = _records(text, delimiter)
    number, head = next(records, (0, ""))
    if not number:
        return
    names = [cell.strip() for cell in head]
    if missing := [name for name in required if name not in names]:
        line = text.lstrip().splitlines()[0]
        raise UsageError(
            f"{path} has no column {' and no '.join(missing)}: it begins with {line!r:.200}. "
            f"Name the columns there: {','.join(required)}."
        )
    if faults := _column_faults(names, known):
        yield Row(number, None, faults)
    for number, cells in records:
        if isinstance(cells, str):
            yield Row(number, None, [cells])
            continue
        pairs = list(itertools.zip_longest(names, cells, fillvalue=""))
        if stray := [cell for name, cell in pairs if not name and cell.strip()]:
            way_out = f"Put double quotes around what holds a {delimiter!r}, or name the column."
            yield Row(number, None, [f"{stray[0]!r:.80} is in no column that has a name. {way_out}"])
        else:
            yield Row(number, {name: cell for name, cell in pairs if name in known})


def _records(text: str, delimiter: str) -> Iterator[tuple[int, list[str] | str]]:
    """Number and cells of the lines that are not blank, those that are count; a sentence for no cells."""
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    for number in itertools.count(1):
        try:
            cells = next(lines, None)
        except csv.Error as error:
            yield number, f"not CSV: {error}. Close each double quote, and double those inside of two."
            continue
        if cells is None:
            return
        if any(map(str.strip, cells)):
            yield number, cells


def _json_lines(path: str | os.PathLike[str], known: Names) -> Iterator[Row]:
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if line.strip():
            try:
                yield _json_row(number, _json(line), known)
            except UsageError as error:
                yield Row(number, None, [f"{error} Write a JSON object a line."])


def _json_rows(path: str | os.PathLike[str], known: Names) -> Iterator[Row]:
    try:
        content = _json(_text(path))
    except UsageError as error:
        raise UsageError(f"{path}: {error} Write a JSON object for each row in a list.") from None
    for number, each in enumerate(content if isinstance(content, list) else [content], start=1):
        yield _json_row(number, each, known)


def _json(text: str) -> Any:
    """The content, an object as a tuple of its pairs, so that a name that comes twice is not lost."""
    try:
        return json.loads(text, object_pairs_hook=tuple)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"not JSON: {error}.") from None


def _json_row(number: int, content: Any, known: Names) -> Row:
    if not isinstance(content, tuple):
        return Row(number, None, [f'{content!r:.80} is no JSON object. Write {{"name": value}}.'])
    faults = _column_faults([name for name, _ in content], known)
    return Row(number, {name: value for name, value in content if name in known}, faults)


def _text(path: str | os.PathLike[str], errors: str = "strict") -> str:
    """The file as text, with or without a byte order mark."""
    try:
        text = Path(path).read_bytes().decode("utf-8-sig", errors)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}. Check its path.") from None
    except UnicodeDecodeError:
        text = _NUL
    if _NUL in text:  # UTF-16, or what a spreadsheet keeps itself
        raise UsageError(f"{path} is not text in UTF-8. Save it as that.")
    return text


def _column_faults(names: Names, known: Names) -> list[str]:
    faults = []
    for name in dict.fromkeys(filter(None, names)):
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            way_out = f"Did you mean {near[0]}?" if near else f"Known are {', '.join(known)}."
            faults.append(f"unknown column {name!r:.80}. {way_out}")
        elif names.count(name) > 1:
            faults.append(f"column {name} is there {names.count(name)} times. Keep one.")
    return faults


def columns(options: Any) -> list[str]:
    """Names of the options in a tree of dataclasses."""
    return [name for name, _ in fields_of(options)]


def replaced(options: Options, values: Mapping[str, Any]) -> tuple[Options, list[str]]:
    """The options with what a row says of them, and what is wrong with values that cannot be taken.

    Text is understood as in a CSV; the values of JSON are taken as they are. What is empty changes nothing.
    """
    tree: Any = options
    types = _types(tree.__class__)
    changes: dict[str, Any] = {}
    faults: list[str] = []
    for each in dataclasses.fields(tree):
        before, given = getattr(tree, each.name), values.get(each.name)
        if dataclasses.is_dataclass(before):
            changes[each.name], more = replaced(before, values)
            faults += more
        elif given not in EMPTY:
            parse, wanted = _parser(types[each.name])
            try:
                changes[each.name] = parse(given)
            except (ValueError, TypeError, OverflowError, KeyError):
                faults.append(f"{each.name} {given!r:.80} is not {wanted}. Mend it or leave it empty.")
    try:
        return dataclasses.replace(tree, **changes), faults
    except Wav2LipError as error:
        return options, [*faults, str(error)]


@functools.cache
def _types(options: type) -> dict[str, Any]:
    """Types of the fields of a dataclass, without the None of those that may be left open."""
    hints = get_type_hints(options)
    for name, hint in hints.items():
        if NoneType in get_args(hint):
            (hint,) = set(get_args(hint)) - {NoneType}
        hints[name] = str if get_origin(hint) is Literal else hint
    return hints


def _as_text(value: Any) -> str:
    """What the name of a file can be too: JSON can say what no file system can."""
    if not isinstance(value, str) or _NUL in value:
        raise TypeError
    os.fsencode(value)
    return value


def _as_number(value: Any) -> float:
    number = math.nan if isinstance(value, bool) else float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def _as_whole(value: Any) -> int:
    """16.0 is one: so spreadsheets and tables write whole numbers in a column with empty cells."""
    number = _as_number(value)
    if not number.is_integer():
        raise ValueError
    return int(number)


def _as_switch(value: Any) -> bool:
    return SWITCHES[str(value).strip().lower()]


def _as_four(value: Any) -> tuple[int, ...]:
    parts: Iterable[Any] = value.replace(",", " ").split() if isinstance(value, str) else value
    top, bottom, left, right = map(_as_whole, parts)
    return top, bottom, left, right


def _parser(hint: Any) -> tuple[Callable[[Any], Any], str]:
    """Return what parses a value of this type, and what the type is called."""
    if get_origin(hint) is Literal:
        return _as_text, f"one of {', '.join(get_args(hint))}"
    return _PARSERS[hint]


_PARSERS: dict[Any, tuple[Callable[[Any], Any], str]] = {
    str: (_as_text, "text"),
    float: (_as_number, "a number such as 29.97"),
    int: (_as_whole, "a whole number"),
    bool: (_as_switch, "true or false"),
    tuple[int, int, int, int]: (_as_four, "four whole numbers, top bottom left right"),
}
"""How a value becomes one of a type, and what it is called."""
