"""Tell errors of the frames and the audio that are written from errors of the file they are written to."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import TypeVar

import av

Item = TypeVar("Item")


class SourceError(Exception):
    """An error while the items of a source were read. Its cause is the error itself."""


def from_source(items: Iterable[Item]) -> Generator[Item, None, None]:
    """Yield the items. Raises `SourceError` for the types of errors that the output file has as well."""
    try:
        yield from items
    except (OSError, av.error.FFmpegError) as error:
        raise SourceError from error
