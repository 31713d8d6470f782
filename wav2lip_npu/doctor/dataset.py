"""Examine a preprocessed data set before, or while, days of training are spent on it."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from wav2lip_npu import device as devices
from wav2lip_npu.data.clip import Clip
from wav2lip_npu.data.clip_index import ClipIndex
from wav2lip_npu.data.face_reader import FaceReader
from wav2lip_npu.doctor.clip_stats import Looked, fingerprints, inspect
from wav2lip_npu.doctor.rules import Finding, Seen, findings_of
from wav2lip_npu.errors import Wav2LipError
from wav2lip_npu.mel import TRAINING_FPS
from wav2lip_npu.parallel.threads import map_in_threads
from wav2lip_npu.preprocessing.report import Record

if TYPE_CHECKING:
    import torch

    from wav2lip_npu.models.networks import SyncNet

log = logging.getLogger(__name__)

MOST_CLIPS = 500
"""Clips that are looked at in depth."""
_MOST_CLIPS_WHILE_TRAINING = 200
_MOST_COMPARED = 20_000
_MOST_JUDGED_WINDOWS = 256


class Verdict(NamedTuple):
    """What an expert makes of the sync of a clip; the fields are those of `Looked`."""

    offset: int
    confidence: float
    sure_offset: int


Judge = Callable[[Clip], Verdict | None]
"""`None` when it cannot be told."""


@dataclass(frozen=True)
class Examination:
    """What was found out about a data set."""

    figures: dict[str, Any]
    """How much there is of what."""
    findings: list[Finding]
    """What will hurt, worst first."""
    clips: list[Looked]
    """The clips that were looked at in depth."""
    shared: list[tuple[str, str]]
    """Clips to train on and the clips for validation that equal them in sound or pictures."""


def warnings_of(train: ClipIndex, val: ClipIndex) -> list[str]:
    """Examine some clips and return the problems found as lines, worst first."""
    problems = examine(train, val, limit=_MOST_CLIPS_WHILE_TRAINING).findings
    return list(map(str, problems)) or ["the doctor found no problem in the clips that it examined"]


def examine(
    train: ClipIndex,
    val: ClipIndex | None = None,
    *,
    judge: Judge | None = None,
    limit: int | None = MOST_CLIPS,
    seed: int = 0,
    unlisted: int = 0,
    reported: Sequence[Record] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Examination:
    """Look at the clips to train on and those for validation, at most `limit` of them in depth.

    A few milliseconds a clip, in threads, and the time that `judge` takes where there is one. What cannot
    be read is a finding. `unlisted` clip folders and what preprocess `reported` are judged too.
    Writes nothing.
    """
    val = val or ClipIndex([], Counter())
    draw = random.Random(seed)
    chosen = [(clip, True) for clip in _sample(val.clips, None if limit is None else limit // 2, draw)]
    chosen += [
        (clip, False) for clip in _sample(train.clips, None if limit is None else limit - len(chosen), draw)
    ]
    looked: list[Looked] = []
    for clip_looked in _look(chosen, judge):
        looked.append(clip_looked)
        progress(len(looked), len(chosen))
    seen = Seen(
        looked=looked,
        clips=len(train.clips),
        val_clips=len(val.clips),
        hours=_hours(train.clips),
        speakers=_speakers(train.clips),
        val_speakers=_speakers(val.clips),
        rejected=train.rejected + val.rejected,
        shared=_shared(train.clips, val.clips, looked),
        unlisted=unlisted,
        failed=Counter(each.reason or each.status for each in reported if each.status != "ok"),
        videos=len(reported),
    )
    return Examination(_figures(seen, _hours(val.clips)), findings_of(seen), looked, list(seen.shared))


def judge_with(syncnet: SyncNet, device: torch.device) -> Judge:
    """Measures the offset of clips with an expert that is on the device and in eval mode."""
    from wav2lip_npu.training.sync_offset import similarities

    reader = FaceReader(cache=False)

    def judge(clip: Clip) -> Verdict | None:
        positions = clip.windows()
        spare = max(0, len(positions) - _MOST_JUDGED_WINDOWS) // 2
        found = similarities(syncnet, clip, reader, device, positions[spare : spare + _MOST_JUDGED_WINDOWS])
        return Verdict(*found.offset(), found.significant_offset()) if len(found.by_offset()) else None

    return judge


def _look(chosen: Sequence[tuple[Clip, bool]], judge: Judge | None) -> Iterator[Looked]:
    lanes = map_in_threads(lambda each: inspect(*each), chosen, 4 * devices.cpu_count())
    for (clip, _), looked in zip(chosen, lanes, strict=True):
        if judge is None or looked.problem is not None:
            yield looked
            continue
        try:
            verdict = judge(clip)
        except (Wav2LipError, OSError) as error:
            yield replace(looked, problem=str(error))
            continue
        yield replace(looked, **(verdict._asdict() if verdict else {}))


def _sample(clips: Sequence[Clip], most: int | None, draw: random.Random) -> list[Clip]:
    if most is None or len(clips) <= most:
        return list(clips)
    return [clips[at] for at in sorted(draw.sample(range(len(clips)), most))]


def _shared(train: Sequence[Clip], val: Sequence[Clip], looked: Iterable[Looked]) -> list[tuple[str, str]]:
    """Clips to train on that equal one of the looked-at clips for validation, and that one's name.

    All clips to train on are compared that are as long as one of those.
    """
    held_out = [each for each in looked if each.held_out and each.problem is None]
    known = {mark: each.name for each in held_out for mark in (each.sound, each.picture) if mark}
    names = {each.name for each in held_out}
    same_length = {clip.columns for clip in val if clip.name in names}
    same_count = {len(clip.frames) for clip in val if clip.name in names}
    alike = [clip for clip in train if clip.columns in same_length or len(clip.frames) in same_count]

    def marks(clip: Clip) -> tuple[str | None, ...]:
        try:
            return fingerprints(clip)
        except (Wav2LipError, OSError):
            return ()

    alike = alike[:_MOST_COMPARED]
    found = zip(alike, map_in_threads(marks, alike, 4 * devices.cpu_count()), strict=True)
    pairs = ((clip.name, [known[mark] for mark in each if mark in known]) for clip, each in found)
    return [(name, same[0]) for name, same in pairs if same]


def _hours(clips: Iterable[Clip]) -> float:
    return sum(len(clip.frames) for clip in clips) / TRAINING_FPS / 3600


def _speakers(clips: Iterable[Clip]) -> frozenset[str]:
    return frozenset(clip.name.rpartition("/")[0] for clip in clips) - {""}


def _figures(seen: Seen, val_hours: float) -> dict[str, Any]:
    looked = seen.looked
    pictures, missing = (sum(getattr(each, name) for each in looked) for name in ("pictures", "missing"))
    judged = [each for each in looked if each.offset is not None]
    return {
        "clips": seen.clips,
        "hours": round(seen.hours, 4),
        "validation_clips": seen.val_clips,
        "validation_hours": round(val_hours, 4),
        "rejected": dict(seen.rejected.most_common()),
        "unlisted": seen.unlisted,
        "failed_videos": dict(seen.failed.most_common()),
        "speakers": len(seen.speakers) or None,
        "validation_speakers": len(seen.val_speakers) or None,
        "shared_with_validation": len(seen.shared),
        "looked_at": len(looked),
        "seconds_per_clip": _spread([each.seconds for each in looked]),
        "source_fps": {
            f"{rate:g}": count
            for rate, count in Counter(each.source_fps for each in looked).most_common()
            if rate is not None
        },
        "face_px": _spread([each.face_px for each in looked]),
        "missing_pictures": round(missing / max(1, pictures + missing), 4),
        "level_db": _spread([each.level_db for each in looked]),
        "clipped": _spread([each.clipped for each in looked]),
        "speech": _spread([each.speech for each in looked]),
        "judged": len(judged),
        "offsets": {
            str(offset): n for offset, n in sorted(Counter(each.offset or 0 for each in judged).items())
        },
        "confidence": _spread([each.confidence for each in judged]),
    }


def _spread(values: Sequence[float | None]) -> dict[str, float] | None:
    """The 5th, 50th and 95th percentile of what could be told."""
    told = [value for value in values if value is not None]
    if not told:
        return None
    low, middle, high = (round(float(each), 3) for each in np.percentile(told, (5, 50, 95)))
    return {"p5": low, "median": middle, "p95": high}
