"""Find the clips below a data root, listed or not, and the reasons why some are unusable."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from wav2lip_npu.data.clip import Clip, ClipError, read_clip
from wav2lip_npu.data.clip_index import ClipIndex, clip_folder, is_clip_folder
from wav2lip_npu.data.clip_layout import AUDIO_FILE, CLIP_FILE, PARTIAL_SUFFIX
from wav2lip_npu.data.file_lists import TRAIN, VAL, Entry, read_list
from wav2lip_npu.devices import device
from wav2lip_npu.parallel.threads import map_in_threads


class Lookup(NamedTuple):
    """Clips of a file list."""

    usable: ClipIndex
    reasons: dict[str, str]
    """Reasons why clips are unusable, by name."""


def read_lists(root: Path, filelists: str | os.PathLike[str]) -> dict[str, list[Entry]] | None:
    """Return the entries of train.txt and val.txt in a folder, or None if it has neither.

    Raises `DataError` if one cannot be read.
    """
    paths = {name: Path(filelists) / name for name in (TRAIN, VAL)}
    if not any(os.path.lexists(path) for path in paths.values()):
        return None
    is_clip = functools.partial(is_clip_folder, root)
    return {name: read_list(path, is_clip) if os.path.lexists(path) else [] for name, path in paths.items()}


def find_clips(root: Path) -> list[str]:
    """Return the clip folders below the root, sorted, relative to it, including those of the original."""
    names = sorted(os.path.relpath(folder, root) for folder in _clip_folders(os.fspath(root), set()))
    return [name.replace(os.sep, "/") for name in names]


def look_up(root: Path, entries: Iterable[Entry]) -> Lookup:
    """Return the usable clips of a file list and the reasons why the others are unusable.

    Unlike `index_clips`, it accepts a list without usable clips. Raises `DataError` for a name outside the
    root.
    """

    def read(entry: Entry) -> Clip | str:
        try:
            clip = read_clip(entry.name, clip_folder(root, entry.name), entry.audio_offset)
        except ClipError as error:
            return error.reason
        return clip if len(clip.windows()) > 1 else "no whole window"

    entries = list(entries)
    results = list(map_in_threads(read, entries, 4 * device.cpu_count()))
    clips = [result for result in results if isinstance(result, Clip)]
    reasons = {entry.name: why for entry, why in zip(entries, results, strict=True) if isinstance(why, str)}
    return Lookup(ClipIndex(clips, Counter(result for result in results if isinstance(result, str))), reasons)


def count_unlisted(root: Path, names: Iterable[str], folders: Sequence[str]) -> int:
    """Return the number of clip folders that are not in the lists."""
    listed = {os.path.realpath(clip_folder(root, name)) for name in names}
    return sum(os.path.realpath(root / folder) not in listed for folder in folders)


def _clip_folders(folder: str, visited: set[str]) -> Iterator[str]:
    """Yield clip folders without listing the thousands of images in them. Links may form loops."""
    if any(os.path.exists(os.path.join(folder, name)) for name in (CLIP_FILE, AUDIO_FILE)):
        yield folder
        return
    if (real := os.path.realpath(folder)) in visited:
        return
    visited.add(real)
    try:
        with os.scandir(folder) as entries:
            folders = [
                entry.path for entry in entries if entry.is_dir() and not entry.name.endswith(PARTIAL_SUFFIX)
            ]
    except OSError:
        return
    for path in folders:
        yield from _clip_folders(path, visited)
