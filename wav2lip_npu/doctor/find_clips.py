"""Which clips there are under a data root, listed or not, and why some cannot be used."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from wav2lip_npu import device
from wav2lip_npu.data.clip import Clip, ClipError, read_clip
from wav2lip_npu.data.clip_index import ClipIndex, clip_folder
from wav2lip_npu.data.clip_layout import AUDIO_FILE, CLIP_FILE, PARTIAL_SUFFIX
from wav2lip_npu.data.file_lists import TRAIN, VAL, Entry, read_list
from wav2lip_npu.parallel.threads import map_in_threads


class Lookup(NamedTuple):
    """The clips of some lines of a file list."""

    usable: ClipIndex
    reasons: dict[str, str]
    """Names of the clips that cannot be used, and why."""


def listed(filelists: str | os.PathLike[str]) -> dict[str, list[Entry]] | None:
    """The lines of train.txt and val.txt in a folder; `None` when it holds neither.

    Raises `DataError` when one cannot be read.
    """
    paths = {name: Path(filelists) / name for name in (TRAIN, VAL)}
    if not any(os.path.lexists(path) for path in paths.values()):
        return None
    return {name: read_list(path) if os.path.lexists(path) else [] for name, path in paths.items()}


def find_clips(root: Path) -> list[str]:
    """Folders under the root that are clips of ours or of the original, sorted, relative to the root."""
    found = sorted(os.path.relpath(folder, root) for folder in _clip_folders(os.fspath(root), set()))
    return [name.replace(os.sep, "/") for name in found]


def look_up(root: Path, entries: Iterable[Entry]) -> Lookup:
    """The usable clips of a file list and the reasons of the others. Raises `DataError` for an odd name.

    Unlike `data.index_clips` it does not mind when none can be used.
    """

    def look(entry: Entry) -> Clip | str:
        try:
            clip = read_clip(entry.name, clip_folder(root, entry.name), entry.audio_offset)
        except ClipError as error:
            return error.reason
        return clip if len(clip.windows()) > 1 else "no whole window"

    entries = list(entries)
    found = list(map_in_threads(look, entries, 4 * device.cpu_count()))
    clips = [each for each in found if isinstance(each, Clip)]
    reasons = {entry.name: why for entry, why in zip(entries, found, strict=True) if isinstance(why, str)}
    return Lookup(ClipIndex(clips, Counter(each for each in found if isinstance(each, str))), reasons)


def count_unlisted(root: Path, names: Iterable[str], found: Sequence[str]) -> int:
    """How many of the clip folders that were found no line of a list means."""
    meant = {os.path.realpath(clip_folder(root, name)) for name in names}
    return sum(os.path.realpath(root / name) not in meant for name in found)


def _clip_folders(folder: str, seen: set[str]) -> Iterator[str]:
    """Clips are not descended into, and the thousands of pictures in them not listed. Links may go round."""
    if any(os.path.exists(os.path.join(folder, name)) for name in (CLIP_FILE, AUDIO_FILE)):
        yield folder
        return
    if (real := os.path.realpath(folder)) in seen:
        return
    seen.add(real)
    try:
        with os.scandir(folder) as entries:
            inside = [
                entry.path for entry in entries if entry.is_dir() and not entry.name.endswith(PARTIAL_SUFFIX)
            ]
    except OSError:
        return
    for path in inside:
        yield from _clip_folders(path, seen)
