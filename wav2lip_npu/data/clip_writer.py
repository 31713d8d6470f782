"""The folder of a clip as it comes to be: written under another name, then put in its place.

Only what was made here is ever removed: a folder is known by its clip.json, an unfinished one by the
name under which that is written, and in both only files of the names below.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import wave
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.data.clip_layout import AUDIO_FILE, CLIP_FILE, FACES_FILE, MEL_FILE, PARTIAL_SUFFIX
from wav2lip_npu.errors import DataError
from wav2lip_npu.mel import DEFAULT_MEL, Mel

_UNFINISHED = f"{CLIP_FILE}.part"
_MARKS = (_UNFINISHED, CLIP_FILE)
_REPLACED = f".old{PARTIAL_SUFFIX}"
_OURS = re.compile(
    rf"\d+\.jpg|({'|'.join(map(re.escape, (AUDIO_FILE, CLIP_FILE, FACES_FILE, MEL_FILE)))})(\..*part)?",
    re.ASCII | re.DOTALL,
)
_LONGEST_NAME = 255  # bytes, of the usual file systems


def read_description(clip: Path) -> dict[str, Any] | None:
    """What the clip.json in a folder says; `None` where there is none of ours."""
    try:
        content = json.loads((clip / CLIP_FILE).read_bytes())
    except (OSError, ValueError):
        return None
    ours = isinstance(content, dict) and isinstance(content.get("source"), dict) and "format" in content
    return content if ours else None


def write_clip(
    clip: Path,
    description: dict[str, Any],
    pictures: Iterable[tuple[int, bytes]],
    samples: NDArray[np.int16],
    mel: Mel,
) -> None:
    """Make the folder `clip`, or replace the one of ours that is there, with numbered JPEGs and the rest.

    What `pictures` raises leaves nothing behind. Raises `DataError` when it cannot be written.
    """
    working = _beside(clip, PARTIAL_SUFFIX)
    with _writing(clip):
        remove_unfinished(working)
        working.mkdir(parents=True)
        (working / _UNFINISHED).touch()
        try:
            for number, picture in pictures:
                (working / f"{number}.jpg").write_bytes(picture)
        except Exception:
            remove_unfinished(working)
            raise
        with wave.open(os.fspath(working / AUDIO_FILE), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(DEFAULT_MEL.sample_rate)
            file.writeframes(samples.astype("<i2").tobytes())
        np.save(working / MEL_FILE, mel)
        text = json.dumps(description, sort_keys=True)
        (working / _UNFINISHED).write_text(text + "\n", encoding="ascii")
        os.replace(working / _UNFINISHED, working / CLIP_FILE)
        replaced = _beside(clip, _REPLACED)
        if os.path.lexists(clip):
            os.rename(clip, replaced)
        os.rename(working, clip)
        if replaced.exists():
            _retire(replaced, clip)


def clean_up(folder: Path) -> None:
    """Remove the unfinished clips in a folder; put back what was about to be replaced."""
    with _writing(folder), contextlib.suppress(FileNotFoundError, NotADirectoryError):
        found = [entry.name for entry in os.scandir(folder) if entry.name.endswith(PARTIAL_SUFFIX)]
        for name in sorted(found):
            if name.endswith(_REPLACED):
                clip = folder / name.removesuffix(_REPLACED)
                if not os.path.lexists(clip):
                    os.rename(folder / name, clip)
                else:
                    _retire(folder / name, clip)
            else:
                remove_unfinished(folder / name)


def remove_unfinished(folder: Path) -> None:
    """Remove the folder of an unfinished clip when it is one."""
    names = _names(folder)
    if names is not None and (not names or any(mark in names for mark in _MARKS)):
        _remove_ours(folder, names)
        folder.rmdir()


def _retire(replaced: Path, clip: Path) -> None:
    """Remove a clip that was replaced; what is not of our making moves on to the new one."""
    names = _names(replaced)
    if names is None or not any(mark in names for mark in _MARKS):
        return
    for name in names:
        if not _OURS.fullmatch(name):
            os.rename(replaced / name, clip / name)
    _remove_ours(replaced, names)
    replaced.rmdir()


def _remove_ours(folder: Path, names: list[str]) -> None:
    """Remove the files; what marks the folder as ours goes last, so that the work can be taken up again."""
    for name in sorted(filter(_OURS.fullmatch, names), key=lambda name: name in _MARKS):
        (folder / name).unlink()


def _names(folder: Path) -> list[str] | None:
    return os.listdir(folder) if folder.is_dir() and not folder.is_symlink() else None


def _beside(clip: Path, ending: str) -> Path:
    name = clip.name
    if len(os.fsencode(name + ending)) > _LONGEST_NAME:
        name = f"{name[:40]}.{zlib.crc32(os.fsencode(name)):08x}"
    return clip.with_name(name + ending)


@contextlib.contextmanager
def _writing(clip: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = error.filename or clip
        raise DataError(
            f"cannot write {where}: {error.strerror or error}. Mend that and run again."
        ) from None
