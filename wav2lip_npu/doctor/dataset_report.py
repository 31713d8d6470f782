"""Report of a data set check, as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from wav2lip_npu import __version__
from wav2lip_npu.data.file_lists import Entry
from wav2lip_npu.doctor.dataset_stats import DatasetStats, format_length
from wav2lip_npu.doctor.loader_speed import LoaderSpeed
from wav2lip_npu.doctor.rules import Problem

_PERCENTILES = {
    "seconds_per_clip": "length, s",
    "face_px": "face in the video, px",
    "level_db": "loudness, dB",
    "speech": "share of speech",
    "confidence": "confidence of the offset",
}


@dataclass(frozen=True, kw_only=True)
class DatasetReport:
    """Result of a data set check."""

    stats: DatasetStats
    problems: list[Problem]
    """Worst first."""
    speed: LoaderSpeed | None = None
    """Speed of the loader, None if it was not measured."""
    data_root: str | None = None
    lists: Mapping[str, list[Entry]] = field(default_factory=dict)
    """Entries of train.txt and val.txt."""
    rejected: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Reasons of the clips that cannot be used, by file list and name."""

    def as_dict(self) -> dict[str, Any]:
        """Return everything for JSON, clip by clip."""
        return {
            "version": __version__,
            "data_root": self.data_root,
            "figures": self.stats.figures(),
            "findings": [problem.as_dict() for problem in self.problems],
            "pace": asdict(self.speed) if self.speed else None,
            "shared_with_validation": [{"train": train, "val": val} for train, val in self.stats.duplicates],
            "rejected": {name: dict(reasons) for name, reasons in self.rejected.items()},
            "clips": [clip.as_dict() for clip in self.stats.measured],
        }

    def __str__(self) -> str:
        return "\n".join([*self._figures(), *self._problems()])

    def _figures(self) -> Iterator[str]:
        stats, figures = self.stats, self.stats.figures()
        yield (
            f"{stats.clips} training clips ({format_length(stats.hours)}), "
            f"{stats.val_clips} validation clips ({format_length(stats.val_hours)}), "
            f"{stats.rejected.total()} rejected, {stats.unlisted} unlisted"
        )
        if stats.speakers:
            yield f"folders (speakers): {len(stats.speakers)} training, {len(stats.val_speakers)} validation"
        total = stats.clips + stats.val_clips
        drawn = "" if len(stats.measured) == total else f" of {total}, drawn at random"
        yield f"measured {len(stats.measured)} clips{drawn}:"
        yield f"  {'':<30}{'5 %':>8} {'median':>8} {'95 %':>8}"
        for name, label in _PERCENTILES.items():
            if figures[name] is not None:
                low, middle, high = figures[name].values()
                yield f"  {label:<30}{low:>8.3g} {middle:>8.3g} {high:>8.3g}"
        if figures["source_fps"]:
            yield f"fps of the videos: {_counts(figures['source_fps'])}"
        if figures["judged"]:
            yield f"frames by which the audio is late: {_counts(figures['offsets'])}"
        yield f"frames without a face, left out: {stats.missing_share:.1%}"
        if self.speed is not None:
            yield str(self.speed)

    def _problems(self) -> Iterator[str]:
        if not self.problems:
            yield "no problems"
            return
        yield "1 problem:" if len(self.problems) == 1 else f"{len(self.problems)} problems, worst first:"
        for number, problem in enumerate(self.problems, 1):
            yield f"{number:>3}. {problem.severity.name.lower()}: {problem}"


def _counts(values: Mapping[str, int]) -> str:
    return ", ".join(f"{value} ({count} clips)" for value, count in values.items())
