"""Log messages as single lines, in the command and in its worker processes.

File names and text from files may contain line breaks and other control characters, and could imitate other
messages.
"""

from __future__ import annotations

import logging


def log_to_stderr() -> None:
    """Send log messages to standard error, unless a handler is already set."""
    handler = logging.StreamHandler()
    handler.setFormatter(_LineFormatter("%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)


def one_line(text: str) -> str:
    """Return text in which line breaks and other unprintable characters are escaped."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text
    )


class _LineFormatter(logging.Formatter):
    """Formats a message as one line, and a traceback unchanged."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 name of the base class
        """Return the message."""
        return one_line(super().formatMessage(record))
