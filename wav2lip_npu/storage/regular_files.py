"""Open files that may come from anybody: only regular files, and only up to a stated size.

Opening a FIFO waits for a writer, opening a device may do anything, and reading a file of unknown size may
take all memory.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO

_TYPES = {
    stat.S_IFIFO: "it is a FIFO, not a regular file",
    stat.S_IFSOCK: "it is a socket, not a regular file",
    stat.S_IFCHR: "it is a device, not a regular file",
    stat.S_IFBLK: "it is a device, not a regular file",
}


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading. Links are followed.

    Raises `OSError`, with the type of a file that is not regular in `strerror`. Such a file is not opened.
    """
    return os.fdopen(descriptor_of(path), "rb")


def descriptor_of(path: str | os.PathLike[str]) -> int:
    """Return a file descriptor of a regular file, to be closed by the caller. Raises `OSError`."""
    _check(os.stat(path), path)
    # Without O_NONBLOCK, a FIFO that replaced the file since the check would wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _check(os.fstat(descriptor), path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def read_limited(path: str | os.PathLike[str], limit: int) -> bytes:
    """Return the content of a regular file of at most `limit` bytes. Raises `OSError`."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise OSError(errno.EFBIG, f"it has {size:,} bytes, more than {limit:,}", os.fspath(path))
        return file.read(limit)


def _check(status: os.stat_result, path: str | os.PathLike[str]) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(status.st_mode):
        why = _TYPES.get(stat.S_IFMT(status.st_mode), "it is not a regular file")
        raise OSError(errno.EINVAL, why, os.fspath(path))
