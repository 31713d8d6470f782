"""A folder into which tables of jobs are dropped."""

from __future__ import annotations

import os
from pathlib import Path
from time import time

from wav2lip_npu.batch.job_table import TABLES
from wav2lip_npu.errors import DataError

_SETTLED_S = 1.0
"""Whoever writes a table and then pauses for longer should write elsewhere and move it in."""
_Stamp = tuple[int, int, int]


class Inbox:
    """Gives each table once, when it is whole; one that is written anew counts as another."""

    def __init__(self, folder: Path, *besides: Path) -> None:
        self._folder = folder
        self._besides = {os.path.abspath(path) for path in besides}
        self._seen: dict[str, _Stamp] = {}
        self._before: dict[str, _Stamp] = {}

    def take(self) -> list[Path]:
        """Tables that are new and were not written to since the last look, the oldest first.

        Raises `DataError` when the folder cannot be read.
        """
        now: dict[str, _Stamp] = {}
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    suffix = os.path.splitext(entry.name)[1].lower()
                    if suffix in TABLES and not entry.name.startswith(".") and entry.is_file():
                        status = entry.stat()
                        now[entry.path] = status.st_mtime_ns, status.st_size, status.st_ino
        except FileNotFoundError:
            if not self._folder.is_dir():
                raise DataError(f"{self._folder} is gone. Make it again, or pass another --watch.") from None
        except OSError as error:
            raise DataError(f"cannot read {self._folder}: {error.strerror}. Pass another --watch.") from None
        settled = [
            path
            for path, stamp in now.items()
            if os.path.abspath(path) not in self._besides
            and self._seen.get(path) != stamp
            and (self._before.get(path) == stamp or time() - stamp[0] / 1e9 > _SETTLED_S)
        ]
        self._before = now
        self._seen.update((path, now[path]) for path in settled)
        return [Path(path) for path in sorted(settled, key=lambda path: now[path])]
