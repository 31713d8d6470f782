"""File lists: the clips for training and for validation.

Each line holds one clip, as a folder relative to the data root. Text after the first white space is
ignored, as in the original ('6330/00011 NF'), so a name with white space is written as a JSON string. The
exception is 'offset=3', which `doctor --fix_offset` writes: the audio of the clip is three frames late.
If such a folder exists, a name written by hand or by another program is also accepted: unquoted with white
space, with backslashes, or in the Windows code page.
"""

from __future__ import annotations

import codecs
import contextlib
import itertools
import json
import logging
import os
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from wav2lip_npu.errors import DataError
from wav2lip_npu.storage.atomic import remove_stale_parts, replacing
from wav2lip_npu.storage.regular_files import open_regular

log = logging.getLogger(__name__)

LISTS = TRAIN, VAL = "train.txt", "val.txt"
_VAL_SHARE = 0.05
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_MAX_BYTES = 1 << 30
_MAX_LINE = 1 << 16
"""Size limit of a line in bytes. The longest path has 4096."""
_MAX_WORDS = 32
"""Maximum number of words in an unquoted name."""


class Entry(NamedTuple):
    """A line of a file list."""

    name: str
    audio_offset: int = 0
    """Frames by which the audio of the clip is late."""


IsClip = Callable[[str], bool]
"""Returns whether a clip of this name exists."""


def read_names(path: str | os.PathLike[str], is_clip: IsClip | None = None) -> list[str]:
    """Return the clip names of a file list, in its order. Raises `DataError` as `read_list` does."""
    return [entry.name for entry in read_list(path, is_clip)]


def read_list(path: str | os.PathLike[str], is_clip: IsClip | None = None) -> list[Entry]:
    """Return the entries of a file list, in its order.

    With `is_clip`, an ambiguous line is read as the name of an existing clip.
    Raises `DataError` if the list is missing, unreadable or not a text file, or if a line has an
    unclosed quote.
    """
    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size > _MAX_BYTES:
                raise DataError(f"file list {path} has more than {_MAX_BYTES:,} bytes. Check --filelists.")
            return list(_parse_lines(file, path, is_clip))
    except FileNotFoundError:
        raise DataError(
            f"no file list {path}. Create it with 'wav2lip-npu preprocess', or list one clip folder "
            "per line, relative to the data root."
        ) from None
    except OSError as error:
        raise DataError(f"cannot read file list {path}: {error.strerror}. Check --filelists.") from None


def _parse_lines(file: BinaryIO, path: str | os.PathLike[str], is_clip: IsClip | None) -> Iterator[Entry]:
    for number in itertools.count(1):
        line = file.readline(_MAX_LINE)
        if not line:
            return
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if (
            b"\0" in line
            or len(line) == _MAX_LINE
            or line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        ):
            raise DataError(
                f"{path}, line {number} is not UTF-8 text. Save the list as a text file in UTF-8."
            )
        text = line.decode("utf-8", "surrogateescape").strip()
        if "\r" in text:
            raise DataError(f"{path}, line {number} has carriage returns in it. Write one clip per line.")
        if text:
            yield _parse(text, f"{path}, line {number}", is_clip)


def write_split(folder: str | os.PathLike[str], names: Sequence[str], *, seed: int = 0) -> list[Path]:
    """Write train.txt and val.txt if they are missing, and return the written paths.

    A new list leaves out the names of an existing one. Empty lists are not written. Raises `DataError` if a
    list cannot be written or an existing one cannot be read.
    """
    train, val = (Path(folder) / name for name in (TRAIN, VAL))
    remove_stale_parts(train)
    remove_stale_parts(val)
    missing = [path for path in (train, val) if not os.path.lexists(path)]
    wanted = dict(zip((train, val), split_names(names, seed), strict=True))
    if missing == [train]:
        wanted[train] = sorted(set(names) - set(read_names(val, set(names).__contains__)))
    elif missing == [val]:
        wanted[val] = sorted(set(wanted[val]) - set(read_names(train, set(names).__contains__)))
    written = [path for path in missing if wanted[path]]
    for path in written:
        write_list(path, map(Entry, wanted[path]))
    return written


def missing_entries(folder: str | os.PathLike[str], names: Iterable[str]) -> list[str]:
    """Return warnings about missing lists and about clips that are in no list of a folder."""
    warnings = []
    names = set(names)
    listed: set[str] = set()
    for path in (Path(folder) / TRAIN, Path(folder) / VAL):
        if not path.exists():
            effect = (
                "Training needs it."
                if path.name == TRAIN
                else "Without it, held-out figures come from the training clips."
            )
            warnings.append(
                f"{path} was not written: too few clips, or the other list has all of them. {effect}"
            )
            continue
        try:
            listed.update(read_names(path, names.__contains__))
        except DataError as error:
            warnings.append(str(error))
    if unlisted := len(names - listed):
        warnings.append(
            f"{unlisted} of {len(names)} clips are in no list in {folder} and will not be used: existing "
            "lists are never changed. Add the clips, remove the lists and run the command again, or pass "
            "another --filelists."
        )
    return warnings


def split_names(names: Iterable[str], seed: int = 0) -> tuple[list[str], list[str]]:
    """Return names for training and for validation, each sorted.

    About 5 % go to validation, at least one of two or more. Clips in the same parent folder are assumed to
    show the same speaker; if there are several speakers, each is entirely in one of the lists.
    """
    names = sorted(set(names))
    draw = random.Random(seed)
    speakers: dict[str, list[str]] = defaultdict(list)
    for name in names:
        speakers[name.rpartition("/")[0]].append(name)
    if len(speakers) > 1:
        groups = list(speakers.values())
        maximum = max(_VAL_SHARE * len(names), min(map(len, groups)))
    else:
        groups = [[name] for name in names]
        maximum = max(1, round(_VAL_SHARE * len(names))) if len(names) > 1 else 0
    draw.shuffle(groups)
    val: list[str] = []
    for group in groups:
        if len(val) + len(group) <= maximum:
            val += group
    return sorted(set(names) - set(val)), sorted(val)


def write_list(path: str | os.PathLike[str], entries: Iterable[Entry]) -> None:
    """Write or replace a file list. Raises `DataError` if it cannot be written."""
    text = "".join(_line(*entry) + "\n" for entry in entries)
    try:
        with replacing(path) as part:
            part.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}. Pass another folder.") from None


def _line(name: str, audio_offset: int) -> str:
    """Return the name itself if `_parse` can read it back, else a JSON string in ASCII."""
    plain = name.split() == [name] and name.isprintable() and not {'"', "'"} & set(name)
    return (name if plain else json.dumps(name)) + (f" offset={audio_offset:+}" if audio_offset else "")


def _parse(line: str, where: str, is_clip: IsClip | None) -> Entry:
    readings = list(_readings(line))
    if not readings:
        raise DataError(f"{where} begins with a quote that is not closed: {line:.80}. Close the quote.")
    name, rest = readings[0]
    if is_clip is not None and len(readings) > 1:
        name, rest = next((reading for reading in readings if is_clip(reading[0])), readings[0])
    return Entry(name, _offset(rest))


def _readings(line: str) -> Iterator[tuple[str, str]]:
    """Yield the possible names in a line, each with the rest of the line, the usual one first."""
    names: list[tuple[str, str]] = []
    if line.startswith('"'):
        try:
            name, end = json.JSONDecoder().raw_decode(line)
            names.append((str(name), line[end:]))
        except (ValueError, RecursionError):
            pass
        if (end := line.find('"', 1)) > 0:  # quoted by another program, without escaped backslashes
            names.append((line[1:end], line[end + 1 :]))
    else:
        words = list(re.finditer(r"\S+", line))[:_MAX_WORDS]
        names += [(line[: word.end()], line[word.end() :]) for word in words]
    yield from names
    for name, rest in names:
        if "\\" in name:
            yield name.replace("\\", "/"), rest
    for name, rest in names:
        if any("\udc80" <= letter <= "\udcff" for letter in name):
            with contextlib.suppress(UnicodeError):
                yield os.fsencode(name).decode("cp1252").replace("\\", "/"), rest


def _offset(words: str) -> int:
    match = re.search(r"(?<!\S)offset=([+-]?\d{1,4})(?!\S)", words, re.ASCII)
    return int(match[1]) if match else 0
