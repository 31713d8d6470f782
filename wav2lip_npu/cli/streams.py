"""Keep a command running if standard output or error is closed, full or a broken pipe."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any, TextIO

_READER_GONE = {errno.EPIPE, errno.EIO}
"""Errors of a pipe without a reader and of a closed terminal."""


def protect() -> Stream:
    """Make standard output and error ignore failed writes from now on; return standard output.

    A closed stream becomes the null device. Otherwise the next file to be opened would get its descriptor and
    receive what libraries print.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
            os.set_inheritable(number, True)
    stdout, stderr = Stream(1), Stream(2)
    sys.stdout, sys.stderr = (
        _text(stdout, sys.stdout, "strict"),
        _text(stderr, sys.stderr, "backslashreplace"),
    )
    return stdout


class Stream(io.FileIO):
    """A file descriptor that discards everything after the first failed write."""

    def __init__(self, number: int) -> None:
        super().__init__(number, "w", closefd=False)
        self._error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write, or discard the data."""
        if self._error is None:
            try:
                return super().write(data)
            except OSError as error:
                self._error = error
        return len(data)

    @property
    def error(self) -> OSError | None:
        """The error of a failed write, such as a full disk; `None` if only the reader has closed the pipe."""
        return None if self._error is None or self._error.errno in _READER_GONE else self._error


def _text(stream: Stream, before: TextIO | None, errors: str) -> TextIO:
    """Return a text stream with the settings of the stream that it replaces."""
    if not isinstance(before, io.TextIOWrapper):
        return io.TextIOWrapper(io.BufferedWriter(stream), encoding="utf-8", errors=errors)
    return io.TextIOWrapper(
        io.BufferedWriter(stream),
        encoding=before.encoding,
        errors=before.errors,
        newline="\n",
        line_buffering=before.line_buffering or before.write_through,
    )
