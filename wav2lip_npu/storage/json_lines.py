"""Reports with one JSON object per line, which survive a crash of their writer.

A line is flushed to disk when it is appended; only the last line of a killed run may be incomplete. At the
end of a run the file is rewritten in order.
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
    """A file of rows, each an instance of a dataclass."""

    path: Path
    row_type: type[Row]
    key: str
    """Name of the field that identifies a row; among rows with the same key, the last one counts."""
    advice: str
    """Advice at the end of the error message if the file cannot be read."""

    def read(self) -> dict[str, Row]:
        """Return the last row of each key. Incomplete lines and lines of other versions are skipped.

        Raises:
            DataError: The file cannot be read, or was not created by wav2lip-npu.

        """
        try:
            lines = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise DataError(f"cannot read {self.path}: {error.strerror}. {self.advice}") from None
        rows: dict[str, Row] = {}
        is_foreign = any(lines[:-1])
        for line in lines:
            try:
                content = json.loads(line)
                is_foreign = is_foreign and not {self.key, "status"} <= set(content)
                row = self.row_type(**content)
            except (ValueError, TypeError):
                continue
            rows[getattr(row, self.key)] = row
        if is_foreign:
            raise DataError(
                f"{self.path} was not created by wav2lip-npu and would be replaced. Move it elsewhere."
            )
        return rows

    def append(self, row: Row) -> None:
        """Append a row on its own line, even after an incomplete line. Raises `DataError`."""
        try:
            with self.path.open("ab") as file:
                is_incomplete = file.tell() and not self._ends_with_newline()
                file.write((b"\n" if is_incomplete else b"") + _line(row))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise self._unwritable(error) from None

    def rewrite(self, rows: Iterable[Row]) -> None:
        """Replace the content of the file with these rows. Raises `DataError`."""
        try:
            with replacing(self.path) as part:
                part.write_bytes(b"".join(map(_line, rows)))
        except OSError as error:
            raise self._unwritable(error) from None

    def _ends_with_newline(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() == b"\n"

    def _unwritable(self, error: OSError) -> DataError:
        return DataError(f"cannot write {self.path}: {error.strerror}. Fix this and run again.")


def format_counts(reasons: Counter[str]) -> str:
    """Return the reasons with their counts, most frequent first, such as `3 no face, 1 too short`."""
    return ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())


def _line(row: Any) -> bytes:
    return json.dumps(asdict(row), sort_keys=True).encode("ascii") + b"\n"
