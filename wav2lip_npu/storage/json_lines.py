"""A report of one JSON object a line that loses nothing when its writer is killed.

A line is appended as each thing is done, and is on the disk then; the last line of a run that was killed may
be torn. At the end the file is written anew, in order.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from wav2lip_npu.errors import DataError
from wav2lip_npu.storage.atomic import replacing

Row = TypeVar("Row")


@dataclass(frozen=True)
class JsonLines(Generic[Row]):
    """A file of rows, which are dataclasses."""

    path: Path
    kind: type[Row]
    name: str
    """The field that tells one thing from another; the last line of each counts."""
    way_out: str
    """What to do when the file cannot be read, as the end of an error."""

    def read(self) -> dict[str, Row]:
        """The last row of each thing by its name; lines that are torn or of another version are left out.

        Raises `DataError` when the file cannot be read or is another's.
        """
        try:
            lines = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise DataError(f"cannot read {self.path}: {error.strerror}. {self.way_out}") from None
        found: dict[str, Row] = {}
        is_other = any(lines[:-1])
        for line in lines:
            try:
                content = json.loads(line)
                is_other = is_other and not {self.name, "status"} <= set(content)
                row = self.kind(**content)
            except (ValueError, TypeError):
                continue
            found[getattr(row, self.name)] = row
        if is_other:
            raise DataError(f"{self.path} is not of our making and would be replaced. Move it away.")
        return found

    def append(self, row: Row) -> None:
        """Add a line, on a line of its own even after a torn one. Raises `DataError`."""
        try:
            with self.path.open("ab") as file:
                torn = file.tell() and not self._ends_a_line()
                file.write((b"\n" if torn else b"") + _line(row))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise self._unwritable(error) from None

    def rewrite(self, rows: Iterable[Row]) -> None:
        """Replace the file by these rows. Raises `DataError`."""
        try:
            with replacing(self.path) as part:
                part.write_bytes(b"".join(map(_line, rows)))
        except OSError as error:
            raise self._unwritable(error) from None

    def _ends_a_line(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() == b"\n"

    def _unwritable(self, error: OSError) -> DataError:
        return DataError(f"cannot write {self.path}: {error.strerror}. Mend that and run again.")


def counted(reasons: Counter[str]) -> str:
    """How often each reason was given, the most frequent first."""
    return ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())


def _line(row: Any) -> bytes:
    return json.dumps(asdict(row), sort_keys=True).encode("ascii") + b"\n"
