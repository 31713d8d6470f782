"""The usable clips of a file list."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from wav2lip_npu import device
from wav2lip_npu.data.clip import Clip, ClipError, read_clip
from wav2lip_npu.data.file_lists import Entry, read_list
from wav2lip_npu.errors import DataError
from wav2lip_npu.parallel.threads import map_in_threads
from wav2lip_npu.storage.json_lines import format_counts

log = logging.getLogger(__name__)

_PROBED_NAMES = 32
_TELL_EVERY_S = 30


class ClipIndex(NamedTuple):
    """The clips of one file list."""

    clips: list[Clip]
    rejected: Counter[str]
    """How many folders cannot be used, by reason."""


def index_clips(
    data_root: str | os.PathLike[str], file_list: str | os.PathLike[str], shift: int = 0
) -> ClipIndex:
    """The usable clips that a file list names, looked at once.

    `shift` is that of `Clip.windows`; a clip without such a window is rejected. Raises `DataError` when
    the root or the list is missing, and when no clip can be used; a wrong root is found out at once.
    """
    root = Path(data_root)
    if not root.is_dir():
        raise DataError(f"--data_root {root} is not a folder. Pass the folder that preprocess wrote.")
    entries = read_list(file_list)
    if not entries:
        raise DataError(f"{file_list} lists no clip. Write one folder a line, relative to --data_root.")
    spread = entries[:: max(1, len(entries) // _PROBED_NAMES)]
    if not any(os.path.isdir(clip_folder(root, entry.name)) for entry in spread):
        raise DataError(
            f"no clip of {file_list} is under {root}, {len(spread)} were looked for: "
            f"{root / entries[0].name} does not exist. Check --data_root and the list."
        )

    def look(entry: Entry) -> Clip | str:
        try:
            clip = read_clip(entry.name, clip_folder(root, entry.name), entry.audio_offset)
        except ClipError as error:
            log.debug("%s", error)
            return error.reason
        shots = clip.shots[clip.windows(shift)]
        return clip if (shots[1:] == shots[:-1]).any() else "too few whole windows"

    clips: list[Clip] = []
    rejected: Counter[str] = Counter()
    told = time.monotonic()
    for count, found in enumerate(map_in_threads(look, entries, 4 * device.cpu_count()), 1):
        if isinstance(found, Clip):
            clips.append(found)
        else:
            rejected[found] += 1
        if time.monotonic() > told + _TELL_EVERY_S:  # the mels of clips without one take a while
            told = time.monotonic()
            log.info("%s: looked at %d of %d clips", file_list, count, len(entries))
    if not clips:
        raise DataError(
            f"no clip of {file_list} can be used ({format_counts(rejected)}). Run wav2lip-npu doctor {root}."
        )
    index = ClipIndex(clips, rejected)
    log.info("%s: %s", file_list, describe(index))
    held = [clip.held_mel.nbytes for clip in clips if clip.held_mel is not None]
    if held:
        log.warning(
            "mels of %d clips take %.0f MB of memory, as no mel.npy can be kept in %s and the like",
            len(held),
            sum(held) / 1e6,
            next(clip.folder for clip in clips if clip.held_mel is not None),
        )
    return index


def describe(index: ClipIndex) -> str:
    """How much there is and how many clips were rejected why, in one line."""
    hours = sum(clip.seconds for clip in index.clips) / 3600
    rejected = (
        f", {index.rejected.total()} rejected: {format_counts(index.rejected)}" if index.rejected else ""
    )
    return f"{len(index.clips)} clips, {hours:.2f} hours{rejected}"


def clip_folder(root: Path, name: str) -> Path:
    """The folder that a line of a file list means.

    A list that preprocess wrote for `lrs2/` also serves the data root `lrs2/main/`: what the root ends
    in need not stand in the line. Raises `DataError` for a name that leads out of the root.
    """
    path = PurePosixPath(name)
    parts = path.parts
    if not parts or path.is_absolute() or ".." in parts:
        raise DataError(f"the clip {name!r} of a file list is outside --data_root. Write relative folders.")
    folder = root / name
    if os.path.isdir(folder):  # unlike Path.is_dir it does not raise for a name that is too long
        return folder
    above = root.resolve().parts
    for count in range(1, len(parts)):
        if above[-count:] == parts[:count] and os.path.isdir(shorter := root.joinpath(*parts[count:])):
            return shorter
    return folder
