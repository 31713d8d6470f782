"""Statistics of a data set for `rules`: counts of all clips, and a sample measured in depth."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from wav2lip_npu.data.clip import Clip
from wav2lip_npu.data.clip_index import ClipIndex
from wav2lip_npu.devices import device as devices
from wav2lip_npu.doctor.clip_stats import ClipStats, content_hashes, measure_clip, speaker_of
from wav2lip_npu.doctor.sync_estimate import SyncEstimator
from wav2lip_npu.errors import Wav2LipError
from wav2lip_npu.mel import TRAINING_FPS
from wav2lip_npu.parallel.threads import map_in_threads
from wav2lip_npu.preprocessing.report import VideoResult

_MAX_COMPARED = 20_000
"""Maximum number of training clips compared with validation clips by content."""
_MIN_HOURS, _MIN_MINUTES = 6, 2
"""Limits below which a length is given in the next smaller unit."""


@dataclass(frozen=True, kw_only=True)
class DatasetStats:
    """Statistics of a data set."""

    measured: Sequence[ClipStats]
    """Clips measured in depth."""
    clips: int
    """Number of training clips."""
    val_clips: int
    hours: float
    """Length of the training clips."""
    val_hours: float = 0.0
    speakers: frozenset[str]
    """Parent folders of the training clips; empty if the clips are directly in the root."""
    val_speakers: frozenset[str]
    rejected: Counter[str]
    """Number of listed clips that cannot be used, by reason."""
    duplicates: Sequence[tuple[str, str]]
    """Pairs of a training clip and a validation clip with the same audio or frames."""
    unlisted: int = 0
    """Number of clip folders below the root that are in no file list."""
    failed: Counter[str] = field(default_factory=Counter)
    """Number of videos that failed in preprocessing, by reason."""
    videos: int = 0
    """Number of videos in the report of preprocessing."""

    @property
    def missing_share(self) -> float:
        """Share of frames without a face, between the first and the last one of each clip."""
        frames = sum(clip.frames for clip in self.measured)
        missing = sum(clip.missing_frames for clip in self.measured)
        return missing / max(1, frames + missing)

    def figures(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        estimated = [clip for clip in self.measured if clip.offset is not None]
        fps = Counter(clip.source_fps for clip in self.measured)
        offsets = Counter(clip.offset or 0 for clip in estimated)
        return {
            "clips": self.clips,
            "hours": round(self.hours, 4),
            "validation_clips": self.val_clips,
            "validation_hours": round(self.val_hours, 4),
            "rejected": dict(self.rejected.most_common()),
            "unlisted": self.unlisted,
            "failed_videos": dict(self.failed.most_common()),
            "speakers": len(self.speakers) or None,
            "validation_speakers": len(self.val_speakers) or None,
            "shared_with_validation": len(self.duplicates),
            "looked_at": len(self.measured),
            "seconds_per_clip": _percentiles([clip.seconds for clip in self.measured]),
            "source_fps": {f"{rate:g}": count for rate, count in fps.most_common() if rate is not None},
            "face_px": _percentiles([clip.face_px for clip in self.measured]),
            "missing_pictures": round(self.missing_share, 4),
            "level_db": _percentiles([clip.level_db for clip in self.measured]),
            "clipped": _percentiles([clip.clipped_share for clip in self.measured]),
            "speech": _percentiles([clip.speech_share for clip in self.measured]),
            "judged": len(estimated),
            "offsets": {str(offset): count for offset, count in sorted(offsets.items())},
            "confidence": _percentiles([clip.confidence for clip in estimated]),
        }


def measure_dataset(
    train: ClipIndex,
    val: ClipIndex,
    *,
    estimate_sync: SyncEstimator | None = None,
    max_clips: int | None = None,
    seed: int = 0,
    unlisted: int = 0,
    results: Sequence[VideoResult] = (),
    progress: Callable[[int, int], None] | None = None,
) -> DatasetStats:
    """Return the statistics of training and validation clips, of which at most `max_clips` are measured.

    The measured clips are drawn at random, half of them from the validation clips. Measuring runs in threads
    and takes a few milliseconds per clip plus the time of `estimate_sync`. `results` come from preprocessing.
    """
    draw = random.Random(seed)
    chosen = [(clip, True) for clip in _sample(val.clips, max_clips and max_clips // 2, draw)]
    chosen += [(clip, False) for clip in _sample(train.clips, max_clips and max_clips - len(chosen), draw)]
    measured: list[ClipStats] = []
    for stats in _measure(chosen, estimate_sync):
        measured.append(stats)
        if progress is not None:
            progress(len(measured), len(chosen))
    return DatasetStats(
        measured=measured,
        clips=len(train.clips),
        val_clips=len(val.clips),
        hours=_hours(train.clips),
        val_hours=_hours(val.clips),
        speakers=_speakers(train.clips),
        val_speakers=_speakers(val.clips),
        rejected=train.rejected + val.rejected,
        duplicates=_find_duplicates(train.clips, val.clips, measured),
        unlisted=unlisted,
        failed=Counter(result.reason or result.status for result in results if result.status != "ok"),
        videos=len(results),
    )


def _measure(chosen: Sequence[tuple[Clip, bool]], estimate_sync: SyncEstimator | None) -> Iterator[ClipStats]:
    all_stats = map_in_threads(lambda pair: measure_clip(*pair), chosen, 4 * devices.cpu_count())
    for (clip, _), stats in zip(chosen, all_stats, strict=True):
        if estimate_sync is None or stats.error is not None:
            yield stats
            continue
        try:
            estimate = estimate_sync(clip)
        except (Wav2LipError, OSError) as error:
            yield replace(stats, error=str(error))
            continue
        yield replace(stats, **(estimate._asdict() if estimate else {}))


def _sample(clips: Sequence[Clip], count: int | None, draw: random.Random) -> list[Clip]:
    if count is None or len(clips) <= count:
        return list(clips)
    return [clips[position] for position in sorted(draw.sample(range(len(clips)), count))]


def _find_duplicates(
    train: Sequence[Clip], val: Sequence[Clip], measured: Iterable[ClipStats]
) -> list[tuple[str, str]]:
    """Return the pairs of a training clip and a measured validation clip with equal content.

    Only training clips of the same length or number of frames are read.
    """
    held_out = [stats for stats in measured if stats.held_out and stats.error is None]
    val_names = {
        content: stats.name
        for stats in held_out
        for content in (stats.audio_hash, stats.frame_hash)
        if content
    }
    names = {stats.name for stats in held_out}
    lengths = {clip.columns for clip in val if clip.name in names}
    counts = {len(clip.frames) for clip in val if clip.name in names}
    similar = [clip for clip in train if clip.columns in lengths or len(clip.frames) in counts]
    similar = similar[:_MAX_COMPARED]

    def hashes(clip: Clip) -> tuple[str | None, ...]:
        try:
            return content_hashes(clip)
        except (Wav2LipError, OSError):
            return ()

    all_hashes = map_in_threads(hashes, similar, 4 * devices.cpu_count())
    pairs = []
    for clip, own in zip(similar, all_hashes, strict=True):
        same = [val_names[content] for content in own if content in val_names]
        if same:
            pairs.append((clip.name, same[0]))
    return pairs


def format_length(hours: float) -> str:
    """Return a length in hours, minutes or seconds, depending on its size."""
    if hours >= _MIN_HOURS:
        return f"{hours:.1f} hours"
    return f"{60 * hours:.0f} minutes" if hours >= _MIN_MINUTES / 60 else f"{3600 * hours:.0f} seconds"


def _hours(clips: Iterable[Clip]) -> float:
    return sum(len(clip.frames) for clip in clips) / TRAINING_FPS / 3600


def _speakers(clips: Iterable[Clip]) -> frozenset[str]:
    return frozenset(speaker_of(clip.name) for clip in clips) - {""}


def _percentiles(values: Sequence[float | None]) -> dict[str, float] | None:
    """Return the 5th, 50th and 95th percentile of the known values, or None if there are none."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    low, middle, high = (round(float(value), 3) for value in np.percentile(known, (5, 50, 95)))
    return {"p5": low, "median": middle, "p95": high}
