"""Locks between processes."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator


@contextlib.contextmanager
def lock_folder(folder: str | os.PathLike[str]) -> Iterator[bool]:
    """Lock a folder until the block ends or the process dies; yield False if another process holds it.

    Yields True on a file system without locks. Raises `OSError` if the folder cannot be opened.
    """
    handle = os.open(folder, os.O_RDONLY)
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
        os.close(handle)
