"""Rules that find problems of a data set, their severity and their fixes.

A rule is a function in `_RULES` that yields the problems in the statistics.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any

from wav2lip_npu.doctor.clip_stats import ClipStats
from wav2lip_npu.doctor.dataset_stats import DatasetStats, format_length
from wav2lip_npu.mel import TRAINING_FPS
from wav2lip_npu.storage.json_lines import format_counts

MIN_CONFIDENCE = 0.1
"""Minimum confidence of an offset that is trusted."""
FACE_PX = 96
"""Side of the input faces of the networks."""
MIN_SECONDS = 2.0
"""Minimum length of a clip whose offset is measured: 15 windows, with 15 frames of audio on either side."""
_MIN_CLIPS = 50
_MEMORIZED_MINUTES, _LITTLE_HOURS, _ENOUGH_HOURS = 10, 3, 15
"""The original is trained on 29 hours (LRS2). With about ten videos, training never converges (LatentSync,
issue 309)."""
_QUIET_DB = -40.0
_MAX_CLIPPED = 1e-3
_MIN_SPEECH = 0.1
_MAX_NAMES = 3


class Severity(IntEnum):
    """Effect of a problem on training."""

    NOTE = 1
    HARMS = 2
    BREAKS = 3


@dataclass(frozen=True)
class Problem:
    """A problem of a data set."""

    severity: Severity
    kind: str
    """A stable code for other programs, such as `small_faces`."""
    what: str
    """What is wrong, in how many clips, and why it matters."""
    way_out: str
    """How to fix it, in one or more sentences."""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return {**asdict(self), "severity": self.severity.name.lower()}

    def __str__(self) -> str:
        return f"{self.what}. {self.way_out}"


def find_problems(stats: DatasetStats) -> list[Problem]:
    """Return the problems of a data set, worst first."""
    return by_severity([problem for rule in _RULES for problem in rule(stats)])


def by_severity(problems: Sequence[Problem]) -> list[Problem]:
    """Return the problems sorted, worst first."""
    return sorted(problems, key=lambda problem: -problem.severity)


def _amount(stats: DatasetStats) -> Iterator[Problem]:
    way_out = "Add videos, or start from published weights with --checkpoint_path."
    if stats.hours < _ENOUGH_HOURS:
        minutes = 60 * stats.hours
        is_tiny = minutes < _MEMORIZED_MINUTES
        effect = "memorize it" if is_tiny else "generalize poorly to other voices and faces"
        little = Severity.NOTE if stats.hours >= _LITTLE_HOURS else Severity.HARMS
        yield Problem(
            Severity.BREAKS if is_tiny else little,
            "few_minutes",
            f"the training set is {format_length(stats.hours)} long and SyncNet will {effect}; "
            "the original was trained on 29 hours",
            way_out,
        )
    if stats.clips < _MIN_CLIPS:
        yield Problem(
            Severity.BREAKS,
            "few_clips",
            f"the training set has only {stats.clips} clips, training needs {_MIN_CLIPS} or more",
            way_out,
        )
    if len(stats.speakers) == 1 and stats.clips > 1:
        yield Problem(
            Severity.NOTE,
            "one_speaker",
            f"all training clips are in one folder, {next(iter(stats.speakers))!r}, and probably show one "
            "speaker: the networks will not work well for others",
            "Add clips of other speakers, unless you train only for this one.",
        )


def _lists(stats: DatasetStats) -> Iterator[Problem]:
    total = stats.clips + stats.val_clips + stats.rejected.total()
    if stats.rejected:
        share = stats.rejected.total() / total
        yield Problem(
            _by_share(share, note=0, harms=0.1, breaks=0.5),
            "rejected",
            f"{stats.rejected.total()} of {total} clips cannot be used ({share:.0%}): "
            f"{format_counts(stats.rejected)}",
            "Preprocess their videos again. --json FILE lists each clip and its reason.",
        )
    if stats.failed:
        share = stats.failed.total() / max(stats.failed.total(), stats.videos)
        yield Problem(
            _by_share(share, note=0, harms=0.2, breaks=0.7),
            "failed_videos",
            f"{stats.failed.total()} of {stats.videos} videos failed in preprocessing and are not used "
            f"({share:.0%}): {format_counts(stats.failed)}",
            "See report.jsonl in the data root, fix the videos and run wav2lip-npu preprocess again.",
        )
    if not stats.val_clips:
        yield Problem(
            Severity.HARMS,
            "no_validation",
            "there are no validation clips, so overfitting goes unnoticed",
            "Move about 5 % of the clips, of separate speakers, from train.txt to val.txt.",
        )
    if stats.duplicates:
        pairs = [train if train == val else f"{train} equals {val}" for train, val in stats.duplicates]
        yield Problem(
            Severity.HARMS,
            "duplicates",
            f"{len(stats.duplicates)} of {stats.clips} training clips have the audio or frames of a "
            f"validation clip, so the validation loss is too low: {_names(pairs)}",
            "Remove them from one of the lists. --json FILE lists all of them.",
        )
    both = stats.speakers & stats.val_speakers
    if both and not stats.duplicates:
        yield Problem(
            Severity.NOTE,
            "shared_speakers",
            f"{len(both)} of {len(stats.val_speakers)} validation folders (speakers) also hold training "
            "clips, so the validation loss says little about unseen speakers",
            "Move whole folders to val.txt if the networks should work for unseen speakers.",
        )
    if stats.unlisted:
        yield Problem(
            Severity.NOTE,
            "unlisted",
            f"{stats.unlisted} clip folders are in neither train.txt nor val.txt and will not be used",
            "Add them to train.txt, or pass the folder of the correct lists as --filelists.",
        )


def _frames(stats: DatasetStats) -> Iterator[Problem]:
    clips = [clip for clip in stats.measured if clip.source_fps is not None]
    slow = [clip for clip in clips if _times_25(clip) < 0.9]
    odd = [clip for clip in clips if _times_25(clip) >= 0.9 and abs(_times_25(clip) % 1 - 0.5) < 0.498]
    for affected, kind, what, note, harms in (
        (slow, "slow_source", "come from videos below 22.5 fps, so mouths freeze between frames", 0.0, 0.1),
        (odd, "odd_source", "have a source fps that is no multiple of 25, so frames drop or repeat", 0.02, 2),
    ):  # fmt: skip
        fps = Counter(f"{clip.source_fps:g} fps" for clip in affected)
        yield from _affected_clips(
            affected, clips, kind, f"{what} ({_names([name for name, _ in fps.most_common()])})",
            "Prefer videos of 25 or 50 fps, and remove clips below 20 fps from the lists.",
            note=note, harms=harms,
        )  # fmt: skip
    clips = [clip for clip in stats.measured if clip.face_px is not None]
    yield from _affected_clips(
        [clip for clip in clips if (clip.face_px or 0) < FACE_PX], clips, "small_faces",
        f"have faces below {FACE_PX} px, which are enlarged, so mouths are blurred",
        "Use larger videos, or remove the clips from the lists: --json FILE gives the face_px of each.",
        note=0.02, harms=0.25,
    )  # fmt: skip
    share = stats.missing_share
    if share > 0.02:
        yield Problem(
            _by_share(share, note=0.02, harms=0.15, breaks=2),
            "gaps",
            f"no face was detected in {share:.0%} of the frames inside the clips, which leaves fewer windows "
            "to train on",
            "Preprocess again with --detector retinaface, which also detects turned faces.",
        )
    yield from _affected_clips(
        [clip for clip in stats.measured if clip.seconds < MIN_SECONDS], stats.measured, "short",
        f"are shorter than {MIN_SECONDS} s, so they give few windows and their offset cannot be measured",
        "Cut the videos into longer pieces and preprocess again.", note=0.05, harms=0.5,
    )  # fmt: skip


def _times_25(clip: ClipStats) -> float:
    return (clip.source_fps or 0) / TRAINING_FPS


def _audio(stats: DatasetStats) -> Iterator[Problem]:
    clips = [clip for clip in stats.measured if clip.speech_share is not None]
    yield from _affected_clips(
        [clip for clip in clips if (clip.speech_share or 0) < _MIN_SPEECH], clips, "no_speech",
        "contain no speech (silence, noise or hum), so nothing can be learned from them",
        "Remove them from the lists, or fix the audio of their videos and preprocess again.",
        note=0, harms=0.05, breaks=0.5,
    )  # fmt: skip
    clips = [clip for clip in clips if clip.level_db is not None and (clip.speech_share or 0) >= _MIN_SPEECH]
    yield from _affected_clips(
        [clip for clip in clips if (clip.level_db or 0) < _QUIET_DB], clips, "quiet",
        f"are below {_QUIET_DB:.0f} dB, and levels are not normalized, so their speech is faint in the mel",
        "Raise the level of their videos and preprocess again.", note=0.01, harms=0.1,
    )  # fmt: skip
    yield from _affected_clips(
        [clip for clip in clips if (clip.clipped_share or 0) > _MAX_CLIPPED], clips, "clipped",
        "have clipped audio, which distorts the mel", "Use recordings at a lower level.",
        note=0.02, harms=0.5,
    )  # fmt: skip
    broken = [clip for clip in stats.measured if clip.error]
    yield from _affected_clips(
        broken, stats.measured, "unreadable",
        f"have files that cannot be read ({_names([str(clip.error) for clip in broken], 1)})",
        "Preprocess their videos again.", note=0, harms=0.02, breaks=0.5,
    )  # fmt: skip


def _sync(stats: DatasetStats) -> Iterator[Problem]:
    clips = [clip for clip in stats.measured if clip.offset is not None]
    trusted = [clip for clip in clips if (clip.confidence or 0) >= MIN_CONFIDENCE]
    yield from _affected_clips(
        [clip for clip in clips if (clip.confidence or 0) < MIN_CONFIDENCE], clips, "low_confidence",
        f"do not match their audio at any offset within 15 frames (confidence below {MIN_CONFIDENCE}): "
        "voice-over, music or another speaker",
        f"Drop them with --min_confidence {MIN_CONFIDENCE}. If most clips are affected, this SyncNet was not "
        "trained on such data: pass another --syncnet_checkpoint_path.", note=0.05, harms=0.2, breaks=0.6,
    )  # fmt: skip
    fix = "--fix_offset to write file lists that correct the offsets"
    offsets = Counter(clip.offset or 0 for clip in trusted)
    common, count = offsets.most_common(1)[0] if offsets else (0, 0)
    if common and count > len(trusted) / 2:
        late = "late" if common > 0 else "early"
        frames = "1 frame" if abs(common) == 1 else f"{abs(common)} frames"
        yield Problem(
            Severity.BREAKS if abs(common) > 1 else Severity.HARMS,
            "common_offset",
            f"the audio of {count} of {len(trusted)} clips ({count / len(trusted):.0%}) is {late} by the "
            f"same {frames} ({1000 // TRAINING_FPS * abs(common)} ms), an error of the videos or of their "
            "preprocessing: SyncNet learns this offset as in sync, and dubs reproduce it",
            f"Preprocess the videos again with wav2lip-npu preprocess, or pass {fix}.",
        )
        trusted = [clip for clip in trusted if clip.offset != common]
        clips = trusted
    yield from _affected_clips(
        [clip for clip in trusted if abs(clip.significant_offset or 0) > 1], clips, "out_of_sync",
        "are out of sync by more than one frame, so SyncNet learns from wrong pairs", f"Pass {fix}.",
        note=0, harms=0.03, breaks=0.25,
    )  # fmt: skip


def _affected_clips(
    affected: Sequence[ClipStats],
    among: Sequence[ClipStats],
    kind: str,
    what: str,
    way_out: str,
    *,
    note: float,
    harms: float,
    breaks: float = 2,
) -> Iterator[Problem]:
    """Yield a problem if the share of affected clips is above `note`."""
    share = len(affected) / max(1, len(among))
    if share > note:
        severity = _by_share(share, note=note, harms=harms, breaks=breaks)
        text = f"{len(affected)} of {len(among)} clips ({share:.0%}) {what}"
        yield Problem(severity, kind, f"{text}: {_names([clip.name for clip in affected])}", way_out)


def _by_share(share: float, *, note: float, harms: float, breaks: float) -> Severity:
    assert share > note, "no problem"
    return Severity.BREAKS if share > breaks else Severity.HARMS if share > harms else Severity.NOTE


def _names(names: Sequence[str], count: int = _MAX_NAMES) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


_RULES: Sequence[Callable[[DatasetStats], Iterator[Problem]]] = (_sync, _audio, _lists, _amount, _frames)
"""Problems of the same severity are sorted by the order of their rules."""
