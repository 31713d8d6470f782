"""Reports with one JSON object per line, which survive a crash of their writer.

A line is flushed to disk when it is appended; only the last line of a killed run may be incomplete. At the
end of a run the file is rewritten in order.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

from wav2lip_npu.errors import DataError
from wav2lip_npu.storage.atomic import replacing
from wav2lip_npu.storage.json_types import row_of
from wav2lip_npu.storage.regular_files import open_regular

log = logging.getLogger(__name__)

Row = TypeVar("Row")
_MAX_LINE = 16 << 20
"""Size limit of a row in bytes. A row has a few kB; a day of video with many spans takes 1 MB."""


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
        """Return the last row of each key. Damaged lines and lines of other versions are skipped.

        Raises:
            DataError: The file cannot be read, or was not created by wav2lip-npu.

        """
        rows: dict[str, Row] = {}
        skipped: list[int] = []
        has_own = has_foreign = False
        try:
            with open_regular(self.path) as file:
                for number, line in _lines(file):
                    is_own, row = self._parse(line)
                    has_own, has_foreign = has_own or is_own, has_foreign or not is_own
                    if row is not None:
                        rows[getattr(row, self.key)] = row
                    elif line.endswith(b"\n"):  # a killed run may leave an incomplete last line
                        skipped.append(number)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise DataError(f"cannot read {self.path}: {error.strerror}. {self.advice}") from None
        if has_foreign and not has_own:
            raise DataError(
                f"{self.path} was not created by wav2lip-npu and would be replaced. Move it elsewhere."
            )
        if skipped:
            log.warning(
                "%s: %d damaged lines or lines of another version are skipped, the first is line %d",
                self.path,
                len(skipped),
                skipped[0],
            )
        return rows

    def _parse(self, line: bytes) -> tuple[bool, Row | None]:
        """Return whether wav2lip-npu wrote a line, and its row; None if the line is incomplete or damaged."""
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            return not line.endswith(b"\n") and self._is_beginning(line), None
        try:
            return True, row_of(content, self.row_type)
        except ValueError:
            return isinstance(content, dict) and {self.key, "status"} <= content.keys(), None

    def _is_beginning(self, line: bytes) -> bool:
        """Return whether a line may be the beginning of a row."""
        names = (field.name for field in fields(self.row_type))  # type: ignore[arg-type]
        beginnings = [f'{{"{name}": '.encode() for name in names]
        return any(line.startswith(first) or first.startswith(line) for first in beginnings)

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


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield number and content of all non-blank lines; lines above the size limit are truncated."""
    for number in itertools.count(1):
        line = file.readline(_MAX_LINE)
        if not line:
            return
        rest = line
        while not rest.endswith(b"\n") and (rest := file.readline(_MAX_LINE)):
            line = line[:_MAX_LINE] + b"\n"
        if line.strip():
            yield number, line


def _line(row: Any) -> bytes:
    return json.dumps(asdict(row), sort_keys=True).encode("ascii") + b"\n"
