"""Write clip folders under a temporary name, then rename them.

Only folders and files created by preprocessing are ever removed. A finished clip is recognised by its
clip.json, an unfinished one by the temporary name of that file; only files with the names below are removed.
"""

from __future__ import annotations

import contextlib
import functools
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

from wav2lip_npu import signals, watchdog
from wav2lip_npu.data.clip_files import read_json
from wav2lip_npu.data.clip_layout import AUDIO_FILE, CLIP_FILE, FACES_FILES, MEL_FILE, PARTIAL_SUFFIX
from wav2lip_npu.errors import DataError
from wav2lip_npu.mel import DEFAULT_MEL, columns_of, mel_blocks
from wav2lip_npu.storage import npy

_UNFINISHED = f"{CLIP_FILE}.part"
_MARKERS = (_UNFINISHED, CLIP_FILE)
_REPLACED_SUFFIX = f".old{PARTIAL_SUFFIX}"
_CLIP_FILES = re.compile(
    rf"\d+\.jpg|({FACES_FILES}|{'|'.join(map(re.escape, (AUDIO_FILE, CLIP_FILE, MEL_FILE)))})(\..*part)?",
    re.ASCII | re.DOTALL,
)
_MAX_NAME = 255
"""Bytes of a file name on the usual file systems."""


def read_description(clip: Path) -> dict[str, Any] | None:
    """Return the content of a clip.json written by preprocessing, or `None` if there is none."""
    try:
        content = read_json(clip / CLIP_FILE)
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or "format" not in content:
        return None
    types = {"source": dict, "options": dict, "frames": list, "fps": int}
    for name, expected in types.items():
        if not isinstance(content.get(name, {} if name == "options" else None), expected):
            return None
    return content if content["fps"] > 0 and {"bytes", "mtime_ns"} <= set(content["source"]) else None


def write_clip(
    clip: Path,
    description: dict[str, Any],
    jpegs: Iterable[tuple[int, bytes]],
    audio: Iterable[NDArray[np.int16]],
) -> None:
    """Write the folder of a clip, or replace an existing clip.

    Args:
        clip: Folder to write.
        description: Content of clip.json. Its `samples` is the number of samples of the audio.
        jpegs: Frame numbers and encoded faces. If the iterator raises an exception, no folder is left behind.
        audio: Blocks of mono audio at 16 kHz, int16. An exception has the same effect.

    Raises:
        DataError: The folder cannot be written.

    """
    working = _sibling(clip, PARTIAL_SUFFIX)
    with _write_errors(clip):
        remove_unfinished(working)
        with watchdog.cleanup(functools.partial(clean_up, clip.parent)):
            try:
                _fill(working, description, jpegs, audio)
            except BaseException:
                remove_unfinished(working)
                raise
            replaced = _sibling(clip, _REPLACED_SUFFIX)
            if os.path.lexists(clip):
                os.rename(clip, replaced)
            os.rename(working, clip)
            if replaced.exists():
                _remove_replaced(replaced, clip)


def _fill(
    working: Path,
    description: dict[str, Any],
    jpegs: Iterable[tuple[int, bytes]],
    audio: Iterable[NDArray[np.int16]],
) -> None:
    """Write the files of a clip into a new folder."""
    working.mkdir(parents=True)
    (working / _UNFINISHED).touch()
    for number, jpeg in jpegs:
        signals.check()
        (working / f"{number}.jpg").write_bytes(jpeg)
    shape = DEFAULT_MEL.n_mels, columns_of(description["samples"])
    npy.write_columns(working / MEL_FILE, shape, mel_blocks(_written(audio, working / AUDIO_FILE)))
    text = json.dumps(description, sort_keys=True)
    (working / _UNFINISHED).write_text(text + "\n", encoding="ascii")
    signals.check()
    os.replace(working / _UNFINISHED, working / CLIP_FILE)


def _written(audio: Iterable[NDArray[np.int16]], path: Path) -> Iterator[NDArray[np.float32]]:
    """Write blocks of audio to a WAV file; yield each one as float32 [samples] in [-1, 1)."""
    with wave.open(os.fspath(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(DEFAULT_MEL.sample_rate)
        for block in audio:
            file.writeframes(block.astype("<i2").tobytes())
            yield block / np.float32(32768)


def clean_up(folder: Path) -> None:
    """Remove the unfinished clips in a folder, and restore clips whose replacement was interrupted."""
    with _write_errors(folder), contextlib.suppress(FileNotFoundError, NotADirectoryError):
        partial = [entry.name for entry in os.scandir(folder) if entry.name.endswith(PARTIAL_SUFFIX)]
        for name in sorted(partial):
            if name.endswith(_REPLACED_SUFFIX):
                clip = folder / name.removesuffix(_REPLACED_SUFFIX)
                if not os.path.lexists(clip):
                    os.rename(folder / name, clip)
                else:
                    _remove_replaced(folder / name, clip)
            else:
                remove_unfinished(folder / name)


def remove_unfinished(folder: Path) -> None:
    """Remove a folder if it is an unfinished clip."""
    names = _names(folder)
    if names is not None and (not names or any(marker in names for marker in _MARKERS)):
        _remove_clip_files(folder, names)
        folder.rmdir()


def _remove_replaced(replaced: Path, clip: Path) -> None:
    """Remove a replaced clip; move its other files to the new one."""
    names = _names(replaced)
    if names is None or not any(marker in names for marker in _MARKERS):
        return
    for name in names:
        if not _CLIP_FILES.fullmatch(name):
            os.rename(replaced / name, clip / name)
    _remove_clip_files(replaced, names)
    replaced.rmdir()


def _remove_clip_files(folder: Path, names: list[str]) -> None:
    """Remove the files of a clip, its markers last so that an interrupted removal can be repeated."""
    for name in sorted(filter(_CLIP_FILES.fullmatch, names), key=lambda name: name in _MARKERS):
        (folder / name).unlink()


def _names(folder: Path) -> list[str] | None:
    return os.listdir(folder) if folder.is_dir() and not folder.is_symlink() else None


def _sibling(clip: Path, suffix: str) -> Path:
    name = clip.name
    if len(os.fsencode(name + suffix)) > _MAX_NAME:
        name = f"{name[:40]}.{zlib.crc32(os.fsencode(name)):08x}"
    return clip.with_name(name + suffix)


@contextlib.contextmanager
def _write_errors(clip: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        path = error.filename or clip
        raise DataError(f"cannot write {path}: {error.strerror or error}. Fix this and run again.") from None
