"""Results of a preprocessing run: `report.jsonl`, one JSON object per video."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wav2lip_npu.data.clip_layout import CLIP_FORMAT
from wav2lip_npu.preprocessing.find_videos import Video
from wav2lip_npu.preprocessing.make_clip import source_of
from wav2lip_npu.storage.json_lines import JsonLines, format_counts

REPORT_FILE = "report.jsonl"
Status = Literal["ok", "kept", "failed"]


@dataclass(frozen=True, kw_only=True)
class VideoResult:
    """Result of one video; a line of the report."""

    video: str
    """Path of the video, relative to the data root."""
    clip: str
    """Folder of its clip, relative to the root of the clips."""
    status: Status
    """`ok`; `failed`; or `kept` for an existing folder that was not created by wav2lip-npu."""
    reason: str | None = None
    """Reason of a failure: one of `make_clip.REASONS`."""
    detail: str | None = None
    """Details of the reason, or the error message."""
    frames: int | None = None
    """Number of frames in the clip."""
    seconds: float | None = None
    """Length of the clip at 25 fps."""
    source: dict[str, int] | None
    """`bytes` and `mtime_ns` of the video."""
    options: dict[str, Any]
    """Options and detector that the clip depends on."""
    format: int = CLIP_FORMAT


@dataclass(frozen=True)
class PreprocessSummary:
    """Results of a preprocessing run."""

    results: list[VideoResult]
    """One per video, sorted by path."""
    report: Path
    """The `report.jsonl` with these results."""

    def count(self, status: Status) -> int:
        """Return the number of videos with this status."""
        return sum(result.status == status for result in self.results)

    @property
    def seconds(self) -> float:
        """Total length of the clips."""
        return sum(result.seconds or 0 for result in self.results)

    @property
    def reasons(self) -> Counter[str]:
        """Number of failed videos by reason."""
        return Counter(str(result.reason) for result in self.results if result.status == "failed")

    def __str__(self) -> str:
        counts = ", ".join(f"{self.count(status)} {status}" for status in ("ok", "kept", "failed"))
        failed = f"\nfailed: {format_counts(self.reasons)}" if self.reasons else ""
        return f"{len(self.results)} videos: {counts}; {self.seconds / 60:.1f} minutes of clips{failed}"


def open_report(root: Path) -> JsonLines[VideoResult]:
    """Return the report in the root of the clips, which need not exist."""
    return JsonLines(root / REPORT_FILE, VideoResult, "video", "Pass another --preprocessed_root.")


def ok_result(video: Video, settings: dict[str, Any], description: dict[str, Any]) -> VideoResult:
    """Return the result of a video with a clip, from the content of its clip.json."""
    source = {key: description["source"][key] for key in ("bytes", "mtime_ns")}
    frames = len(description["frames"])
    return VideoResult(
        video=video.name,
        clip=video.clip,
        status="ok",
        frames=frames,
        seconds=frames / description["fps"],
        source=source,
        options=settings,
    )


def failed_result(video: Video, settings: dict[str, Any], reason: str, detail: str) -> VideoResult:
    """Return the result of a video without a clip."""
    return VideoResult(
        video=video.name,
        clip=video.clip,
        status="failed",
        reason=reason,
        detail=detail,
        source=source_of(video),
        options=settings,
    )
