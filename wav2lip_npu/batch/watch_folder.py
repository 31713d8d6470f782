"""Watch a folder for new job tables."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from time import time

from wav2lip_npu.batch.job_table import TABLE_SUFFIXES
from wav2lip_npu.errors import DataError

_SETTLED_S = 1.0
"""A table is complete if it was not modified for this long, or between two calls of `new_tables`."""
_FileState = tuple[int, int, int]


class WatchFolder:
    """Returns each table once; a table that is modified later counts as new."""

    def __init__(self, folder: Path, *ignored: Path) -> None:
        self._folder = folder
        self._ignored = {os.path.abspath(path) for path in ignored}
        self._seen: dict[str, _FileState] = {}
        self._last: dict[str, _FileState] = {}

    def new_tables(self) -> list[Path]:
        """Return the complete tables that have not been returned yet, oldest first.

        Raises:
            DataError: The folder cannot be read.

        """
        current: dict[str, _FileState] = {}
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    suffix = os.path.splitext(entry.name)[1].lower()
                    if suffix in TABLE_SUFFIXES and not entry.name.startswith("."):
                        state = _state_of(entry)
                        if state is not None:
                            current[entry.path] = state
        except FileNotFoundError:
            if not self._folder.is_dir():
                raise DataError(
                    f"{self._folder} no longer exists. Create it, or pass another --watch."
                ) from None
        except OSError as error:
            raise DataError(f"cannot read {self._folder}: {error.strerror}. Pass another --watch.") from None
        complete = [
            path
            for path, state in current.items()
            if os.path.abspath(path) not in self._ignored
            and self._seen.get(path) != state
            and (self._last.get(path) == state or time() - state[0] / 1e9 > _SETTLED_S)
        ]
        self._last = current
        self._seen.update((path, current[path]) for path in complete)
        return [Path(path) for path in sorted(complete, key=lambda path: current[path])]


def _state_of(entry: os.DirEntry[str]) -> _FileState | None:
    """Return the state of a table; None for a folder, or a file that no longer exists.

    A file that cannot be read, such as a link to itself or a FIFO, also has a state: reading it raises the
    error to report.
    """
    try:
        status = entry.stat()
    except FileNotFoundError:
        return None
    except OSError:
        return 0, 0, entry.inode()
    return None if stat.S_ISDIR(status.st_mode) else (status.st_mtime_ns, status.st_size, status.st_ino)
