"""New file lists out of old ones: clips out of sync are moved or left out; their folders stay as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from wav2lip_npu.data.file_lists import Entry
from wav2lip_npu.doctor.clip_stats import Looked
from wav2lip_npu.doctor.rules import TRUSTED


@dataclass(frozen=True)
class Resynced:
    """A file list, and what was done to it."""

    entries: list[Entry]
    shifted: int
    """Clips whose sound was moved."""
    dropped: int
    """Clips of too little confidence."""
    unjudged: int
    """Clips that are too short, or cannot be used, and stay as they were."""


def resync(
    entries: Iterable[Entry],
    looked: Mapping[str, Looked],
    *,
    fix_offset: bool,
    min_confidence: float | None,
) -> Resynced:
    """The list with the offsets that the expert found added to those it has, and less the doubtful clips.

    A sure offset is believed from a confidence of 0.1 on. A list that came out of this comes out the same.
    """
    kept: list[Entry] = []
    shifted = dropped = unjudged = 0
    for entry in entries:
        clip = looked.get(entry.name)
        if clip is None or clip.sure_offset is None or clip.confidence is None:
            unjudged += 1
            kept.append(entry)
        elif min_confidence is not None and clip.confidence < min_confidence:
            dropped += 1
        elif fix_offset and clip.sure_offset and clip.confidence >= TRUSTED:
            shifted += 1
            kept.append(Entry(entry.name, entry.audio_offset + clip.sure_offset))
        else:
            kept.append(entry)
    return Resynced(kept, shifted, dropped, unjudged)
