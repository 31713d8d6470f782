"""Locks between processes."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from wav2lip_npu.errors import OutputError


@contextlib.contextmanager
def lock_folder(folder: str | os.PathLike[str]) -> Iterator[bool]:
    """Lock a folder until the block ends or the process dies; yield False if another process holds it.

    The folder is created. Yields True on a file system without locks. Raises `OutputError` if the folder
    cannot be created or read.
    """
    try:
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
        os.close(handle)
