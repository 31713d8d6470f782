"""File lists: which clips are trained on and which are held back for validation.

One clip a line, its folder relative to the data root. What follows the first white space of a line is
ignored, as in the original ('6330/00011 NF'); a name that could not be told from that is written as a
JSON string. One such word is understood: 'offset=3' says that the sound of the clip is late by three
frames, which the doctor finds out.
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

TRAIN, VAL = "train.txt", "val.txt"
_VAL_SHARE = 0.05
_BYTE_ORDER_MARK = "\ufeff"


class Entry(NamedTuple):
    """A line of a file list."""

    name: str
    audio_offset: int = 0
    """Frames by which the sound of the clip is late."""


def read_names(path: str | os.PathLike[str]) -> list[str]:
    """Names of clips in a file list, in its order. Raises `DataError` as `read_list`."""
    return [entry.name for entry in read_list(path)]


def read_list(path: str | os.PathLike[str]) -> list[Entry]:
    """The clips of a file list, in its order.

    Raises `DataError` when it is missing or unreadable, or a line that begins with a quote is no JSON
    string.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        raise DataError(
            f"no file list {path}. 'wav2lip-npu preprocess' writes it; or list one clip folder a line, "
            "relative to the data root."
        ) from None
    except OSError as error:
        raise DataError(f"cannot read file list {path}: {error.strerror}.") from None
    lines = text.removeprefix(_BYTE_ORDER_MARK).split("\n")
    return [_parse(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]


def write_split(folder: str | os.PathLike[str], names: Sequence[str], *, seed: int = 0) -> list[Path]:
    """Write train.txt and val.txt where they are absent, and return those written.

    Beside a list that is there already, the other gets no name of it. A list without a name is not
    written. Raises `DataError` when a list cannot be written or the one that is there cannot be read.
    """
    train, val = (Path(folder) / name for name in (TRAIN, VAL))
    remove_stale_parts(train)
    remove_stale_parts(val)
    absent = [path for path in (train, val) if not os.path.lexists(path)]
    wanted = dict(zip((train, val), split_names(names, seed), strict=True))
    if absent == [train]:
        wanted[train] = sorted(set(names) - set(read_names(val)))
    elif absent == [val]:
        wanted[val] = sorted(set(wanted[val]) - set(read_names(train)))
    written = [path for path in absent if wanted[path]]
    for path in written:
        write_list(path, map(Entry, wanted[path]))
    return written


def left_open(folder: str | os.PathLike[str], names: Iterable[str]) -> list[str]:
    """What the lists in a folder lack, in sentences: they may be of other clips, or of fewer."""
    said = []
    listed: set[str] = set()
    for path in (Path(folder) / TRAIN, Path(folder) / VAL):
        if not path.exists():
            need = "Training needs it." if path.name == TRAIN else "Training is judged on its own clips then."
            said.append(f"{path} is not written: too few clips, or all are in the other list. {need}")
            continue
        try:
            listed.update(read_names(path))
        except DataError as error:
            said.append(str(error))
    names = set(names)
    if unlisted := len(names - listed):
        said.append(
            f"{unlisted} of {len(names)} clips are in no list in {folder}, and will not be trained on: lists "
            "are never changed. Add the clips, remove the lists and run again, or pass another --filelists."
        )
    return said


def split_names(names: Iterable[str], seed: int = 0) -> tuple[list[str], list[str]]:
    """Names to train on and names for validation, about 5 %, at least one of two or more; each sorted.

    Clips of one speaker, which is to say of one parent folder, are not divided when there are several
    speakers.
    """
    names = sorted(set(names))
    draw = random.Random(seed)
    speakers: dict[str, list[str]] = defaultdict(list)
    for name in names:
        speakers[name.rpartition("/")[0]].append(name)
    if len(speakers) > 1:
        groups = list(speakers.values())
        most = max(_VAL_SHARE * len(names), min(map(len, groups)))
    else:
        groups = [[name] for name in names]
        most = max(1, round(_VAL_SHARE * len(names))) if len(names) > 1 else 0
    draw.shuffle(groups)
    val: list[str] = []
    for group in groups:
        if len(val) + len(group) <= most:
            val += group
    return sorted(set(names) - set(val)), sorted(val)


def write_list(path: str | os.PathLike[str], entries: Iterable[Entry]) -> None:
    """Write or replace a file list. Raises `DataError` when it cannot be written."""
    text = "".join(_line(*entry) + "\n" for entry in entries)
    try:
        with replacing(path) as part:
            part.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}. Pass another folder.") from None


def _line(name: str, audio_offset: int) -> str:
    """The name as it is where that is read back as it is, else as a JSON string in ASCII."""
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
            f"{where} begins with a quote, but is no JSON string: {line[:80]}. Close the quote."
        ) from None
    return Entry(str(name), _offset(line[end:]))


def _offset(words: str) -> int:
    found = re.search(r"(?<!\S)offset=([+-]?\d{1,4})(?!\S)", words, re.ASCII)
    return int(found[1]) if found else 0
