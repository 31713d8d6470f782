"""Distinguish errors of the frames and audio to write from errors of the output file."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import TypeVar

import av

Item = TypeVar("Item")


class SourceError(Exception):
    """An error while reading a source. `__cause__` is the original error."""


def from_source(items: Iterable[Item]) -> Generator[Item, None, None]:
    """Yield the items. Raises `SourceError` for errors that writing the output file could raise too."""
    try:
        yield from items
    except (OSError, av.error.FFmpegError) as error:
        raise SourceError from error
