"""What became of each video: report.jsonl, one JSON object a line.

A line is appended as each video is done, so that a run that was killed loses none; the last line of
such a run may be torn. At the end the file is written anew, sorted.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wav2lip_npu.atomic import replacing
from wav2lip_npu.clips import CLIP_FORMAT
from wav2lip_npu.errors import DataError

REPORT_FILE = "report.jsonl"


@dataclass(frozen=True, kw_only=True)
class Record:
    """One video."""

    video: str
    """Relative to the data root."""
    clip: str
    """Folder of its clip, relative to the root of the clips."""
    status: str
    """`ok`, `failed` or `kept`: a folder that was not made here and was left as it is."""
    reason: str | None = None
    """Why it failed, one of `preprocess.REASONS`."""
    detail: str | None = None
    """The same with figures, or the text of the error."""
    frames: int | None = None
    """Pictures in the clip."""
    seconds: float | None = None
    """Length of the clip: its pictures at 25 a second."""
    source: dict[str, int] | None
    """`bytes` and `mtime_ns` of the video."""
    options: dict[str, Any]
    """What the result depends on besides the video."""
    format: int = CLIP_FORMAT


def read_records(path: Path) -> dict[str, Record]:
    """The last record of each video, by its name; lines that are torn or of another version are left out.

    Raises `DataError` when the file cannot be read or is another's.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}. Pass another --preprocessed_root.") from None
    found = {}
    is_other = any(lines[:-1])
    for line in lines:
        try:
            content = json.loads(line)
            is_other = is_other and not {"video", "status"} <= set(content)
            record = Record(**content)
        except (ValueError, TypeError):
            continue
        found[record.video] = record
    if is_other:
        raise DataError(f"{path} is not of our making and would be replaced. Move it away.")
    return found


def append(path: Path, record: Record) -> None:
    """Add a line, on a line of its own even after a torn one. Raises `DataError`."""
    try:
        with path.open("ab") as file:
            torn = file.tell() and not _ends_a_line(path)
            file.write((b"\n" if torn else b"") + _line(record))
    except OSError as error:
        raise _unwritable(path, error) from None


def rewrite(path: Path, records: Iterable[Record]) -> None:
    """Replace the file by these records, sorted by the name of the video. Raises `DataError`."""
    lines = [_line(record) for record in sorted(records, key=lambda record: record.video)]
    try:
        with replacing(path) as part:
            part.write_bytes(b"".join(lines))
    except OSError as error:
        raise _unwritable(path, error) from None


def summary(records: Iterable[Record]) -> list[str]:
    """Lines that count what became of the videos."""
    records = list(records)
    states = Counter(record.status for record in records)
    reasons = Counter(str(record.reason) for record in records if record.status == "failed")
    seconds = sum(record.seconds or 0 for record in records)
    counts = ", ".join(f"{states[state]} {state}" for state in ("ok", "kept", "failed"))
    lines = [f"{len(records)} videos: {counts}; {seconds / 60:.1f} minutes of clips"]
    if reasons:
        lines.append(f"failed: {counted(reasons)}")
    return lines


def counted(reasons: Counter[str]) -> str:
    """How often each reason was given, the most frequent first."""
    return ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())


def _line(record: Record) -> bytes:
    return json.dumps(asdict(record), sort_keys=True).encode("ascii") + b"\n"


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def _unwritable(path: Path, error: OSError) -> DataError:
    return DataError(f"cannot write {path}: {error.strerror}. Mend that and run again.")
