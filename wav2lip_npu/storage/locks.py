"""Locks between processes."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

from wav2lip_npu.errors import OutputError
from wav2lip_npu.storage.atomic import lock_path

_POLL_S = 0.1


@contextlib.contextmanager
def lock_folder(folder: str | os.PathLike[str]) -> Iterator[bool]:
    """Lock a folder until the block ends or the process dies; yield False if another process holds it.

    The folder is created, and removed at the end if nothing was written to it. Yields True on a file system
    without locks. Raises `OutputError` if the folder cannot be created or read.
    """
    parents = [Path(folder), *Path(folder).parents]
    try:
        missing = list(itertools.takewhile(lambda path: not path.exists(), parents))
        os.makedirs(folder or ".", exist_ok=True)
        handle = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise OutputError(f"cannot use {folder}: {error.strerror}. Pass another folder.") from None
    try:
        is_locked = True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            is_locked = False
        except OSError:
            pass
        yield is_locked
    finally:
        if is_locked:
            with contextlib.suppress(OSError):  # not empty
                for path in missing:
                    path.rmdir()
        os.close(handle)


@contextlib.contextmanager
def lock_output(path: str | os.PathLike[str], wait: float = 0.0) -> Iterator[bool]:
    """Lock an output file, which need not exist, until the block ends or the process dies.

    Yields False if another process or thread still holds the lock after `wait` seconds, and True on a file
    system without locks. The lock is a file next to the output, which is removed at the end. The folder is
    created. Raises `OutputError` if the folder cannot be written.
    """
    name = lock_path(path)
    deadline = time.monotonic() + wait
    try:
        name.parent.mkdir(parents=True, exist_ok=True)
        while (handle := _try_lock(name)) is None and time.monotonic() < deadline:
            time.sleep(_POLL_S)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}. Pass another path.") from None
    try:
        yield handle is not None
    finally:
        if handle is not None:
            name.unlink(missing_ok=True)  # before the lock is released and others can get it
            os.close(handle)


def remove_stale_lock(path: str | os.PathLike[str]) -> None:
    """Remove the lock of an output whose process was killed."""
    if lock_path(path).exists():
        with contextlib.suppress(OutputError), lock_output(path):
            pass


def _try_lock(name: Path) -> int | None:
    """Return the descriptor of a locked file; None if another process holds the lock. Raises `OSError`."""
    while True:
        handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        except OSError:
            return handle
        try:
            if os.path.samestat(os.fstat(handle), os.stat(name)):
                return handle
        except FileNotFoundError:
            pass
        os.close(handle)  # the previous owner removed the file before it was locked
