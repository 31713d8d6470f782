"""Write file lists that correct offsets or drop clips. The clip folders are not changed."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from wav2lip_npu.data.file_lists import Entry, write_list
from wav2lip_npu.doctor.clip_stats import ClipStats
from wav2lip_npu.doctor.rules import MIN_CONFIDENCE

log = logging.getLogger(__name__)


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


def write_fixed_lists(
    lists: Mapping[str, list[Entry]],
    stats: Iterable[ClipStats],
    outdir: str | os.PathLike[str],
    *,
    fix_offset: bool,
    min_confidence: float | None,
) -> None:
    """Write the corrected version of each non-empty file list. Raises `DataError` if that fails."""
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
