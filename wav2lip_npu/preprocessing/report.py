"""What became of each video of a preprocessing: report.jsonl, one JSON object a line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wav2lip_npu.data.clip_layout import CLIP_FORMAT
from wav2lip_npu.storage.json_lines import JsonLines, format_counts

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


def report_in(root: Path) -> JsonLines[Record]:
    """The report in the root of the clips."""
    return JsonLines(root / REPORT_FILE, Record, "video", "Pass another --preprocessed_root.")


def summary(records: Iterable[Record]) -> list[str]:
    """Lines that count what became of the videos."""
    records = list(records)
    states = Counter(record.status for record in records)
    reasons = Counter(str(record.reason) for record in records if record.status == "failed")
    seconds = sum(record.seconds or 0 for record in records)
    counts = ", ".join(f"{states[state]} {state}" for state in ("ok", "kept", "failed"))
    lines = [f"{len(records)} videos: {counts}; {seconds / 60:.1f} minutes of clips"]
    if reasons:
        lines.append(f"failed: {format_counts(reasons)}")
    return lines
