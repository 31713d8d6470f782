"""SHA-256 of files, computed once per process for each file."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import defaultdict
from typing import NamedTuple

from wav2lip_npu import signals
from wav2lip_npu.storage.regular_files import open_regular


class FileState(NamedTuple):
    """State of a file. If it is unchanged, so is the hash."""

    path: str
    """Absolute path with symbolic links resolved."""
    bytes: int
    mtime_ns: int


_hashes: dict[FileState, str] = {}
_locks: defaultdict[FileState, threading.Lock] = defaultdict(threading.Lock)


def state_of(path: str | os.PathLike[str]) -> FileState:
    """Return path, size and modification time of a file. Raises `OSError`."""
    status = os.stat(path)
    return FileState(os.path.realpath(path), status.st_size, status.st_mtime_ns)


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file as 64 hex digits. Raises `OSError` if it cannot be read.

    The file is read again only after its size or modification time has changed.
    """
    state = state_of(path)
    with _locks[state]:
        if state not in _hashes:
            digest = _read(path)
            if state_of(path) != state:  # the file was written meanwhile: do not store this hash
                return digest
            _hashes[state] = digest
        return _hashes[state]


def remember(state: FileState, sha256: str) -> None:
    """Store a known hash, such as one from a report, so that the file need not be read."""
    _hashes[state] = sha256


def forget_below(folder: str | os.PathLike[str]) -> None:
    """Forget the hashes of the files in a folder, for a process that meets new files as long as it runs."""
    inside = os.path.join(os.path.realpath(folder), "")
    for known in (_hashes, _locks):
        for state in [state for state in list(known) if state.path.startswith(inside)]:
            known.pop(state, None)


def _read(path: str | os.PathLike[str]) -> str:
    sha = hashlib.sha256()
    with open_regular(path) as file:
        while chunk := file.read(1 << 20):
            signals.check()
            sha.update(chunk)
    return sha.hexdigest()
