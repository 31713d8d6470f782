"""File lists: the clips for training and for validation.

Each line holds one clip, as a folder relative to the data root. Text after the first white space is
ignored, as in the original ('6330/00011 NF'), so a name with white space is written as a JSON string. The
exception is 'offset=3', which `doctor --fix_offset` writes: the audio of the clip is three frames late.
"""

from __future__ import annotations

import json
import logging
import os
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from wav2lip_npu.errors import DataError
from wav2lip_npu.storage.atomic import remove_stale_parts, replacing

log = logging.getLogger(__name__)

LISTS = TRAIN, VAL = "train.txt", "val.txt"
_VAL_SHARE = 0.05
_BYTE_ORDER_MARK = "\ufeff"


class Entry(NamedTuple):
    """A line of a file list."""

    name: str
    audio_offset: int = 0
    """Frames by which the audio of the clip is late."""


def read_names(path: str | os.PathLike[str]) -> list[str]:
    """Return the clip names of a file list, in its order. Raises `DataError` as `read_list` does."""
    return [entry.name for entry in read_list(path)]


def read_list(path: str | os.PathLike[str]) -> list[Entry]:
    """Return the entries of a file list, in its order.

    Raises `DataError` if the list is missing or unreadable, or if a line begins with a quote but is not a
    JSON string.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        raise DataError(
            f"no file list {path}. Create it with 'wav2lip-npu preprocess', or list one clip folder "
            "per line, relative to the data root."
        ) from None
    except OSError as error:
        raise DataError(f"cannot read file list {path}: {error.strerror}. Check --filelists.") from None
    lines = text.removeprefix(_BYTE_ORDER_MARK).split("\n")
    return [_parse(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]


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
        wanted[train] = sorted(set(names) - set(read_names(val)))
    elif missing == [val]:
        wanted[val] = sorted(set(wanted[val]) - set(read_names(train)))
    written = [path for path in missing if wanted[path]]
    for path in written:
        write_list(path, map(Entry, wanted[path]))
    return written


def missing_entries(folder: str | os.PathLike[str], names: Iterable[str]) -> list[str]:
    """Return warnings about missing lists and about clips that are in no list of a folder."""
    warnings = []
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
            listed.update(read_names(path))
        except DataError as error:
            warnings.append(str(error))
    names = set(names)
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


def _parse(line: str, where: str) -> Entry:
    line = line.strip()
    if not line.startswith('"'):
        name, *rest = line.split(maxsplit=1)
        return Entry(name, _offset(" ".join(rest)))
    try:
        name, end = json.JSONDecoder().raw_decode(line)
    except ValueError:
        raise DataError(
            f"{where} begins with a quote but is not a JSON string: {line[:80]}. Close the quote."
        ) from None
    return Entry(str(name), _offset(line[end:]))


def _offset(words: str) -> int:
    match = re.search(r"(?<!\S)offset=([+-]?\d{1,4})(?!\S)", words, re.ASCII)
    return int(match[1]) if match else 0
