"""Detect resource errors: memory, open files, threads, disk space, permissions.

Libraries raise them anywhere, as exceptions of many types. They are not bugs, so a command prints one line.
"""

from __future__ import annotations

import errno
import re

_LIMITS = {
    errno.EMFILE: "Raise the limit of open files, see ulimit -n.",
    errno.ENFILE: "Close other programs.",
    errno.ENOMEM: "Free memory, or raise its limit, see ulimit -v.",
    errno.EAGAIN: "Raise the limit of processes, see ulimit -u.",
    errno.ENOSPC: "Free space on the disk.",
    errno.EDQUOT: "Free space on the disk.",
    errno.EFBIG: "Raise the limit of file sizes, see ulimit -f.",
    errno.EROFS: "Pass another path.",
    errno.EACCES: "Change its permissions, or pass another path.",
    errno.EPERM: "Change its permissions, or pass another path.",
    errno.EIO: "Check the disk.",
    errno.ESTALE: "Check the network file system.",
    errno.ELOOP: "Pass another path.",
}
_TEXTS = (
    (r"too many open files", errno.EMFILE),
    (
        r"(out of|not enough|insufficient|can'?t allocate|cannot allocate|failed to allocate) memory",
        errno.ENOMEM,
    ),
    (r"failed to map segment|bad_alloc", errno.ENOMEM),
    (r"can't start new thread|resource temporarily unavailable", errno.EAGAIN),
    (r"no space left on device", errno.ENOSPC),
    (r"permission denied", errno.EACCES),
)
"""Messages of exceptions without an error number: failed imports, and errors of C++ libraries."""


def resource_problem(error: BaseException) -> str | None:
    """Return the message for a resource error; None for a bug."""
    if isinstance(error, OSError) and error.errno in _LIMITS:
        path = f"{error.filename!s}: " if error.filename is not None else ""
        return f"{path}{error.strerror}. {_LIMITS[error.errno]}"
    if isinstance(error, MemoryError):
        return f"out of memory. {_LIMITS[errno.ENOMEM]}"
    for pattern, code in _TEXTS:
        if line := re.search(f".*({pattern}).*", str(error), re.IGNORECASE):
            return f"{line[0].strip():.200}. {_LIMITS[code]}"
    return None
