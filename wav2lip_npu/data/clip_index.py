"""The usable clips of a file list."""

from __future__ import annotations

import functools
import logging
import os
import time
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from wav2lip_npu.data.clip import Clip, ClipError, read_clip
from wav2lip_npu.data.clip_layout import AUDIO_FILE, CLIP_FILE
from wav2lip_npu.data.file_lists import Entry, read_list
from wav2lip_npu.devices import device
from wav2lip_npu.errors import DataError
from wav2lip_npu.parallel.threads import map_in_threads
from wav2lip_npu.storage.atomic import real_name
from wav2lip_npu.storage.json_lines import format_counts

log = logging.getLogger(__name__)

_PROBED_NAMES = 32
_LOG_EVERY_S = 30


class ClipIndex(NamedTuple):
    """The clips of one file list."""

    clips: list[Clip]
    rejected: Counter[str]
    """Number of folders that cannot be used, by reason."""


def index_clips(
    data_root: str | os.PathLike[str], file_list: str | os.PathLike[str], shift: int = 0
) -> ClipIndex:
    """Return the usable clips of a file list. Each folder is read once.

    Args:
        data_root: Folder that the names of the list are relative to.
        file_list: One clip per line, as `preprocess` writes it.
        shift: Frames by which the mel windows are shifted, see `Clip.windows`. A clip without two such
            windows in one shot is rejected.

    Raises:
        DataError: The root or the list is missing, or no clip can be used. A wrong root is detected with a
            few names before all folders are read.

    """
    root = Path(data_root)
    if not root.is_dir():
        raise DataError(f"--data_root {root} is not a folder. Pass the output folder of preprocess.")
    entries = read_list(file_list, functools.partial(is_clip_folder, root))
    if not entries:
        raise DataError(f"{file_list} lists no clips. Write one folder per line, relative to --data_root.")
    probed = entries[:: max(1, len(entries) // _PROBED_NAMES)]
    if not any(os.path.isdir(clip_folder(root, entry.name)) for entry in probed):
        raise DataError(
            f"no clip of {file_list} is under {root} ({len(probed)} checked): "
            f"{root / entries[0].name!s:.300} does not exist. Check --data_root and the list."
        )

    def read(entry: Entry) -> Clip | str:
        try:
            clip = read_clip(entry.name, clip_folder(root, entry.name), entry.audio_offset)
        except ClipError as error:
            log.debug("%s", error)
            return error.reason
        shots = clip.shots[clip.windows(shift)]
        return clip if (shots[1:] == shots[:-1]).any() else "too few whole windows"

    clips: list[Clip] = []
    rejected: Counter[str] = Counter()
    logged = time.monotonic()
    for count, result in enumerate(map_in_threads(read, entries, 4 * device.cpu_count()), 1):
        if isinstance(result, Clip):
            clips.append(result)
        else:
            rejected[result] += 1
        if time.monotonic() > logged + _LOG_EVERY_S:  # computing missing mels takes a while
            logged = time.monotonic()
            log.info("%s: %d of %d clips read", file_list, count, len(entries))
    if not clips:
        raise DataError(
            f"no clip of {file_list} can be used ({format_counts(rejected)}). Run wav2lip-npu doctor {root}."
        )
    index = ClipIndex(clips, rejected)
    log.info("%s: %s", file_list, describe(index))
    held = [clip for clip in clips if clip.held_mel is not None]
    if held:
        size = sum(clip.held_mel.nbytes for clip in held if clip.held_mel is not None)
        log.warning(
            "the mels of %d clips take %.0f MB of memory because mel.npy cannot be written, first to %s",
            len(held),
            size / 1e6,
            held[0].folder,
        )
    return index


def index_held_out(
    data_root: str | os.PathLike[str], file_list: Path, train: ClipIndex, shift: int = 0
) -> ClipIndex:
    """Return the usable clips of the list for validation, or those of `train` if it is missing or empty.

    Both, and clips that are in both lists, are reported. Raises `DataError` as `index_clips` does.
    """
    if not os.path.lexists(file_list) or not read_list(file_list):
        state = "lists no clips" if os.path.lexists(file_list) else "does not exist"
        log.warning("%s %s: held-out figures are computed on the training clips", file_list, state)
        return train
    held_out = index_clips(data_root, file_list, shift)
    folders = {clip.folder for clip in train.clips}
    if shared := [clip.name for clip in held_out.clips if clip.folder in folders]:
        log.warning(
            "%d of %d clips of %s are training clips too, first %s: held-out figures do not show how the "
            "network works on other clips. Remove them from one of the lists.",
            len(shared), len(held_out.clips), file_list, shared[0],
        )  # fmt: skip
    return held_out


def describe(index: ClipIndex) -> str:
    """Return the number of clips, their hours, and the rejected ones by reason, in one line."""
    hours = sum(clip.seconds for clip in index.clips) / 3600
    rejected = (
        f", {index.rejected.total()} rejected: {format_counts(index.rejected)}" if index.rejected else ""
    )
    return f"{len(index.clips)} clips, {hours:.2f} hours{rejected}"


def is_clip_folder(root: Path, name: str) -> bool:
    """Return whether a name in a file list refers to an existing clip."""
    try:
        folder = clip_folder(root, name)
    except DataError:
        return False
    return any(os.path.exists(folder / file) for file in (AUDIO_FILE, CLIP_FILE))


def clip_folder(root: Path, name: str) -> Path:
    """Return the folder that a name in a file list refers to.

    A list written for `lrs2/` also works with the data root `lrs2/main/`: leading parts of the name that
    repeat the end of the root are optional. Raises `DataError` for a name outside the root.
    """
    inside = _inside(root, name)
    if inside is None:
        raise DataError(
            f"clip {name!r:.200} of a file list is outside --data_root {root}. "
            "Write paths relative to it, or absolute paths inside it."
        )
    folder = root / inside
    if os.path.isdir(folder):  # unlike Path.is_dir, this does not raise for a name that is too long
        return folder
    parts = PurePosixPath(inside).parts
    above = root.resolve().parts
    for count in range(1, len(parts)):
        if above[-count:] == parts[:count] and os.path.isdir(shorter := root.joinpath(*parts[count:])):
            return shorter
    return folder


def _inside(root: Path, name: str) -> str | None:
    """Return a name relative to the root, or `None` if it is outside, empty or the root itself."""
    if "\0" in name:
        return None
    if os.path.isabs(name):
        roots = (os.path.abspath(root), os.path.realpath(root))
        paths = (os.path.normpath(name), real_name(name))
        relative = [os.path.relpath(path, above) for above in roots for path in paths]
    else:
        relative = [os.path.normpath(name)] if name else []
    inside = (path for path in relative if path != os.curdir and path.split(os.sep)[0] != os.pardir)
    return next(inside, None)
