"""Open untrusted files: only regular files, and only up to a stated size.

Opening a FIFO blocks until there is a writer, opening a device may have side effects, and reading a file of
unknown size may exhaust the memory.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO

_TYPES = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def type_of(status: os.stat_result) -> str | None:
    """Return the type of a file, such as `a FIFO`; None for a regular file."""
    if stat.S_ISREG(status.st_mode):
        return None
    return _TYPES.get(stat.S_IFMT(status.st_mode), "of an unknown type")


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry of a folder is a folder or a link to one; False for a link to itself."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading. Links are followed.

    Raises `OSError`. A file that is not regular is not opened; `strerror` states its type.
    """
    return os.fdopen(descriptor_of(path), "rb")


def descriptor_of(path: str | os.PathLike[str]) -> int:
    """Return a file descriptor of a regular file, to be closed by the caller. Raises `OSError`."""
    _check(os.stat(path), path)
    # O_NONBLOCK: opening a FIFO that has replaced the file since the check must not block.
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
    if (kind := type_of(status)) is not None:
        raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", os.fspath(path))
