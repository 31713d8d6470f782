"""What of a data set will hurt a training, how much, and what to do about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from wav2lip_npu.doctor.clip_stats import Looked
from wav2lip_npu.mel import TRAINING_FPS
from wav2lip_npu.storage.json_lines import format_counts

TRUSTED = 0.1
"""Confidence from which on an offset is believed."""
FACE_PX = 96
"""Side of the faces that the networks see."""
SHORTEST_S = 1.4
"""From here on a clip is long enough to move its sound 15 frames either way."""
_FEWEST_CLIPS = 50
_NOTHING_MINUTES, _LITTLE_HOURS, _ENOUGH_HOURS = 10, 3, 15
"""The original is trained on 29 hours (LRS2); some ten videos never converge (LatentSync, issue 309)."""
_QUIET_DB = -40.0
_CLIPPED = 1e-3
_NO_SPEECH = 0.1
_NAMED = 3


class Severity(IntEnum):
    """How much a finding hurts."""

    NOTE = 1
    HARMS = 2
    BREAKS = 3


@dataclass(frozen=True)
class Finding:
    """One thing that hurts."""

    severity: Severity
    kind: str
    """In a word, for programs."""
    what: str
    """What, and how much."""
    way_out: str

    def __str__(self) -> str:
        return f"{self.what}. {self.way_out}"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the rules judge."""

    looked: Sequence[Looked]
    """Clips that were looked at in depth."""
    clips: int
    val_clips: int
    hours: float
    """Of the clips to train on."""
    speakers: frozenset[str]
    """Folders that hold the clips to train on; empty when the clips lie in none."""
    val_speakers: frozenset[str]
    rejected: Counter[str]
    shared: Sequence[tuple[str, str]]
    """Clips to train on and the clips for validation that equal them."""
    unlisted: int = 0
    """Clip folders under the root that no list names."""
    failed: Counter[str] = field(default_factory=Counter)
    """Why videos became no clips, as preprocess reported it."""
    videos: int = 0
    """Videos in that report."""


def findings_of(seen: Seen) -> list[Finding]:
    """What hurts, worst first."""
    return by_severity([finding for rule in _RULES for finding in rule(seen)])


def by_severity(findings: Sequence[Finding]) -> list[Finding]:
    """Worst first."""
    return sorted(findings, key=lambda finding: -finding.severity)


def _of_amount(seen: Seen) -> Iterator[Finding]:
    more = "Add videos, or start from a published expert with --checkpoint_path"
    if seen.hours < _ENOUGH_HOURS:
        minutes = 60 * seen.hours
        how = "learns these clips by heart" if minutes < _NOTHING_MINUTES else "knows few voices and faces"
        severity = Severity.NOTE if seen.hours >= _LITTLE_HOURS else Severity.HARMS
        yield Finding(
            Severity.BREAKS if minutes < _NOTHING_MINUTES else severity,
            "few_minutes",
            f"{minutes:.0f} minutes to train on: an expert {how}; the original's had 29 hours",
            f"{more}.",
        )
    if seen.clips < _FEWEST_CLIPS:
        yield Finding(
            Severity.BREAKS,
            "few_clips",
            f"{seen.clips} clips to train on, {_FEWEST_CLIPS} are few",
            f"{more}.",
        )
    if len(seen.speakers) == 1 and seen.clips > 1:
        yield Finding(
            Severity.NOTE,
            "one_speaker",
            f"all clips are of one folder, {next(iter(seen.speakers))!r}, so probably of one speaker",
            "Expect networks that serve this speaker only; add others for networks that serve everybody.",
        )


def _of_lists(seen: Seen) -> Iterator[Finding]:
    total = seen.clips + seen.val_clips + seen.rejected.total()
    if seen.rejected:
        share = seen.rejected.total() / total
        yield Finding(
            _by_share(share, note=0, harms=0.1, breaks=0.5),
            "rejected",
            f"{seen.rejected.total()} of {total} clips cannot be used ({share:.0%}): "
            f"{format_counts(seen.rejected)}",
            "Preprocess their videos again; --json names them.",
        )
    if seen.failed:
        share = seen.failed.total() / max(seen.failed.total(), seen.videos)
        yield Finding(
            _by_share(share, note=0, harms=0.2, breaks=0.7),
            "failed_videos",
            f"{seen.failed.total()} of {seen.videos} videos became no clip ({share:.0%}): "
            f"{format_counts(seen.failed)}",
            "Read report.jsonl in the data root, mend the videos and run preprocess again.",
        )
    if not seen.val_clips:
        yield Finding(
            Severity.HARMS,
            "no_validation",
            "there are no clips for validation, so nothing tells when the training goes wrong",
            "Put some 5 % of the clips, of speakers of their own, into val.txt instead of train.txt.",
        )
    if seen.shared:
        pairs = [train if train == val else f"{train} is {val}" for train, val in seen.shared]
        yield Finding(
            Severity.HARMS,
            "duplicates",
            f"{len(seen.shared)} clips to train on have the sound or the pictures of a clip for validation "
            f"({_some(pairs)}), so validation measures memory",
            "Take them out of one of the lists; --json names them.",
        )
    both = seen.speakers & seen.val_speakers
    if both and not seen.shared:
        yield Finding(
            Severity.NOTE,
            "shared_speakers",
            f"{len(both)} of {len(seen.val_speakers)} folders (speakers) for validation are trained on too",
            "Keep speakers apart where the figures shall hold for new ones.",
        )
    if seen.unlisted:
        yield Finding(
            Severity.NOTE,
            "unlisted",
            f"{seen.unlisted} clip folders are in no list",
            "Add them to train.txt, or pass --filelists with the right folder.",
        )


def _of_pictures(seen: Seen) -> Iterator[Finding]:
    rates = [each for each in seen.looked if each.source_fps is not None]
    slow = [each for each in rates if _times_25(each) < 0.9]
    odd = [each for each in rates if _times_25(each) >= 0.9 and abs(_times_25(each) % 1 - 0.5) < 0.498]
    for which, kind, what, note, harms in (
        (slow, "slow_source", "are of videos of less than 22.5 fps: mouths stand still", 0.0, 0.1),
        (odd, "odd_source", "are of videos of an odd rate: pictures are dropped or repeated", 0.02, 2),
    ):
        names = Counter(f"{each.source_fps:g} fps" for each in which)
        yield from _shared_by(
            which, rates, kind, f"{what} ({_some([name for name, _ in names.most_common()])})",
            "Prefer sources of 25 or 50 fps; leave those below 20 out.", note=note, harms=harms,
        )  # fmt: skip
    sized = [each for each in seen.looked if each.face_px is not None]
    yield from _shared_by(
        [each for each in sized if (each.face_px or 0) < FACE_PX], sized, "small_faces",
        f"have faces below {FACE_PX} px, which are blown up: mouths are blurred",
        "Take larger videos, or leave them out of the list; --json names them.", note=0.02, harms=0.25,
    )  # fmt: skip
    pictures = sum(each.pictures for each in seen.looked)
    missing = sum(each.missing for each in seen.looked)
    share = missing / max(1, pictures + missing)
    if share > 0.02:
        yield Finding(
            _by_share(share, note=0.02, harms=0.15, breaks=2),
            "gaps",
            f"{share:.0%} of the pictures are missing between the first and the last of their clips: no face "
            "was found there",
            "Preprocess with --detector s3fd, which finds turned faces too.",
        )
    yield from _shared_by(
        [each for each in seen.looked if each.seconds < SHORTEST_S], seen.looked, "short",
        f"are shorter than {SHORTEST_S} s: few windows, and too short to measure their offset",
        "Cut videos into longer pieces.", note=0.05, harms=0.5,
    )  # fmt: skip


def _times_25(clip: Looked) -> float:
    return (clip.source_fps or 0) / TRAINING_FPS


def _of_sound(seen: Seen) -> Iterator[Finding]:
    heard = [each for each in seen.looked if each.speech is not None]
    dumb = [each for each in heard if (each.speech or 0) < _NO_SPEECH]
    yield from _shared_by(
        dumb, heard, "no_speech", "hold no speech (silence, noise or a hum): nothing to learn from",
        "Leave them out of the list; check the sound track of their videos.", note=0, harms=0.05, breaks=0.5,
    )  # fmt: skip
    level = [each for each in heard if each.level_db is not None and (each.speech or 0) >= _NO_SPEECH]
    yield from _shared_by(
        [each for each in level if (each.level_db or 0) < _QUIET_DB], level, "quiet",
        f"are very quiet (below {_QUIET_DB:.0f} dB), and the mel is not normalised",
        "Raise the level of their videos and preprocess again.", note=0.01, harms=0.1,
    )  # fmt: skip
    yield from _shared_by(
        [each for each in level if (each.clipped or 0) > _CLIPPED], level, "clipped",
        "have sound that is clipped", "Prefer recordings of lower level.", note=0.02, harms=0.5,
    )  # fmt: skip
    broken = [each for each in seen.looked if each.problem]
    yield from _shared_by(
        broken, seen.looked, "unreadable",
        f"have files that cannot be read ({_some([str(each.problem) for each in broken], 1)})",
        "Preprocess their videos again.", note=0, harms=0.02, breaks=0.5,
    )  # fmt: skip


def _of_synchrony(seen: Seen) -> Iterator[Finding]:
    judged = [each for each in seen.looked if each.offset is not None]
    sure = [each for each in judged if (each.confidence or 0) >= TRUSTED]
    yield from _shared_by(
        [each for each in judged if (each.confidence or 0) < TRUSTED], judged, "low_confidence",
        f"match their sound nowhere within 15 frames (confidence below {TRUSTED})",
        "Voice-over, music or another speaker: drop them with --min_confidence. If it is most of them, the "
        "expert does not know such data.", note=0.05, harms=0.2, breaks=0.6,
    )  # fmt: skip
    fix = "Pass --fix_offset: new file lists move the sound"
    offsets = Counter(each.offset or 0 for each in sure)
    common, count = offsets.most_common(1)[0] if offsets else (0, 0)
    if common and count > len(sure) / 2:
        late = "late" if common > 0 else "early"
        yield Finding(
            Severity.BREAKS if abs(common) > 1 else Severity.HARMS,
            "common_offset",
            f"the sound of {count / len(sure):.0%} of the clips is {late} by the same {abs(common)} frames "
            f"({40 * abs(common)} ms): the videos or their preprocessing are at fault",
            f"Make the clips again with 'wav2lip-npu preprocess'. {fix}.",
        )
        sure = [each for each in sure if each.offset != common]
        judged = sure
    yield from _shared_by(
        [each for each in sure if abs(each.sure_offset or 0) > 1], judged, "out_of_sync",
        "are out of sync by more than a frame", f"{fix}.", note=0, harms=0.03, breaks=0.25,
    )  # fmt: skip


def _shared_by(
    which: Sequence[Looked],
    among: Sequence[Looked],
    kind: str,
    what: str,
    way_out: str,
    *,
    note: float,
    harms: float,
    breaks: float = 2,
) -> Iterator[Finding]:
    """A finding about some clips among those that could be told, when their share is above `note`."""
    share = len(which) / max(1, len(among))
    if share > note:
        severity = _by_share(share, note=note, harms=harms, breaks=breaks)
        text = f"{len(which)} of {len(among)} clips ({share:.0%}) {what}"
        yield Finding(severity, kind, f"{text}: {_some([each.name for each in which])}", way_out)


def _by_share(share: float, *, note: float, harms: float, breaks: float) -> Severity:
    assert share > note, "nothing to tell"
    return Severity.BREAKS if share > breaks else Severity.HARMS if share > harms else Severity.NOTE


def _some(names: Sequence[str], most: int = _NAMED) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


_RULES: Sequence[Callable[[Seen], Iterator[Finding]]] = (
    _of_synchrony,
    _of_sound,
    _of_lists,
    _of_amount,
    _of_pictures,
)
"""Among findings of the same severity, those of the first rule come first."""
