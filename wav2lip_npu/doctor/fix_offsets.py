"""Write file lists that correct offsets or drop clips. The clip folders are not changed."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wav2lip_npu.data.file_lists import Entry, write_list
from wav2lip_npu.doctor.clip_stats import ClipStats
from wav2lip_npu.doctor.rules import MIN_CONFIDENCE
from wav2lip_npu.errors import DataError
from wav2lip_npu.training.sync_offset import MAX_OFFSET

log = logging.getLogger(__name__)

_MIN_SHARE = 0.5
"""Minimum share of measured clips that match their audio. A SyncNet found no match in 64 % of 61 clips of
unseen people, and in 2 % of clips like its training data."""
_MIN_AGREEING, _MIN_CLIPS = 1 / 3, 10
"""Minimum share of matching clips within one frame of the most frequent offset, and minimum number of clips.
With random offsets the share is 10 %."""


@dataclass(frozen=True)
class FixedList:
    """A corrected file list."""

    entries: list[Entry]
    shifted: int
    """Number of clips whose offset was corrected."""
    dropped: int
    """Number of clips whose confidence is too low."""
    unmeasured: int
    """Number of clips that are too short or unusable. They are kept unchanged."""


def fix_list(
    entries: Iterable[Entry],
    stats: Mapping[str, ClipStats],
    *,
    fix_offset: bool,
    min_confidence: float | None,
) -> FixedList:
    """Return a list with the measured offsets added to its own, without the clips below `min_confidence`.

    Only significant offsets with a confidence of at least 0.1 are added. Correcting a list twice has no
    further effect.
    """
    kept: list[Entry] = []
    shifted = dropped = unmeasured = 0
    for entry in entries:
        clip = stats.get(entry.name)
        if clip is None or clip.significant_offset is None or clip.confidence is None:
            unmeasured += 1
            kept.append(entry)
        elif min_confidence is not None and clip.confidence < min_confidence:
            dropped += 1
        elif fix_offset and clip.significant_offset and clip.confidence >= MIN_CONFIDENCE:
            shifted += 1
            kept.append(Entry(entry.name, entry.audio_offset + clip.significant_offset))
        else:
            kept.append(entry)
    return FixedList(kept, shifted, dropped, unmeasured)


def check_syncnet(stats: Iterable[ClipStats], syncnet: str | os.PathLike[str]) -> None:
    """Raise `DataError` if the offsets of a SyncNet are noise, because it was not trained on such people."""
    measured = [clip for clip in stats if clip.offset is not None]
    matching = [clip.offset or 0 for clip in measured if _is_match(clip)]
    way_out = "No list was written. Pass a --syncnet_checkpoint_path that was trained on such clips."
    if len(matching) < _MIN_SHARE * len(measured):
        raise DataError(
            f"{syncnet} finds no match with the audio in {len(measured) - len(matching)} of {len(measured)} "
            f"clips: it was not trained on such people, and its offsets are meaningless. {way_out}"
        )
    if len(matching) >= _MIN_CLIPS:
        common = Counter(matching).most_common(1)[0][0]
        agreeing = sum(abs(offset - common) <= 1 for offset in matching)
        if agreeing < _MIN_AGREEING * len(matching):
            raise DataError(
                f"{syncnet} was not trained on such people: its offsets are scattered, only "
                f"{agreeing} of {len(matching)} clips are within one frame of {common:+}. {way_out}"
            )


def _is_match(clip: ClipStats) -> bool:
    """Return whether a clip matches its audio at an offset inside the search range."""
    return (clip.confidence or 0) >= MIN_CONFIDENCE and abs(clip.offset or 0) < MAX_OFFSET


def write_fixed_lists(
    lists: Mapping[str, list[Entry]],
    stats: Sequence[ClipStats],
    outdir: str | os.PathLike[str],
    *,
    syncnet: str | os.PathLike[str],
    fix_offset: bool,
    min_confidence: float | None,
) -> None:
    """Write the corrected version of each non-empty file list.

    Raises `DataError` if a list cannot be written, or if the SyncNet that measured the clips is unsuitable.
    """
    check_syncnet(stats, syncnet)
    by_name = {clip.name: clip for clip in stats}
    for name, entries in lists.items():
        if not entries:
            continue
        fixed = fix_list(entries, by_name, fix_offset=fix_offset, min_confidence=min_confidence)
        path = Path(outdir) / name
        write_list(path, fixed.entries)
        log.info(
            "%s: %d of %d clips kept, %d dropped, %d offsets corrected, %d not measured and unchanged",
            path, len(fixed.entries), len(entries), fixed.dropped, fixed.shifted, fixed.unmeasured,
        )  # fmt: skip
