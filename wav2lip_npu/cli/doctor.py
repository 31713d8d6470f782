"""The `doctor` command: its flags, and how it tells what it found."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from wav2lip_npu import __version__, device
from wav2lip_npu.cli.json_output import STDOUT, write_json
from wav2lip_npu.errors import DataError, UsageError

if TYPE_CHECKING:
    from wav2lip_npu.data.file_lists import Entry
    from wav2lip_npu.doctor.dataset import Examination, Judge
    from wav2lip_npu.doctor.find_clips import Lookup
    from wav2lip_npu.doctor.loader_speed import Pace
    from wav2lip_npu.doctor.rules import Finding

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DoctorCommand:
    """Look at a preprocessed data set before days of training are spent on it: what will hurt, worst first.
    Without one, look at this machine: versions, devices and what mends them, codecs, detectors, weights.

    wav2lip-npu doctor
    wav2lip-npu doctor lrs2_preprocessed --syncnet_checkpoint_path lipsync_expert.pth
    """

    data_root: tyro.conf.Positional[str | None] = None
    """Folder of preprocessed clips, of ours or of the original's. (default: look at the machine)"""
    filelists: str = "filelists"
    """Folder of train.txt and val.txt; without them all clips under the data root are looked at."""
    syncnet_checkpoint_path: str | None = None
    """Weights of an expert, which measures by how many frames the sound of each clip is late."""
    fix_offset: bool = False
    """Write new file lists in which the sound of clips is moved to where it belongs."""
    min_confidence: float | None = None
    """Write new file lists without the clips of less confidence, 0 to 1. (default: keep all)"""
    outdir: str = "filelists_synced"
    """Folder for the new file lists."""
    num_clips: int = 500
    """Clips that are looked at in depth, drawn at random; all when new lists are written."""
    num_workers: int = 16
    """Threads that make samples while the loader is timed, at most one a core."""
    width: int = 32
    """Channels of the expert that is timed, 32 for the published one."""
    device: str = "auto"
    """auto (npu, cuda, cpu in this order), cpu, cuda[:i] or npu[:i]."""
    json: str | None = None
    """Write everything that was found to this JSON file; without a name, or with -, to standard output."""

    def run(self) -> int:
        """Look, and tell what was found: 1 if this machine cannot do what it is asked for."""
        if self.data_root is None:
            return self._look_at_the_machine()
        log.info("wav2lip-npu %s", __version__)
        root = self._checked(self.data_root)
        from tqdm import tqdm

        from wav2lip_npu.data.file_lists import TRAIN, VAL, Entry
        from wav2lip_npu.doctor.dataset import examine
        from wav2lip_npu.doctor.find_clips import count_unlisted, find_clips, listed, look_up
        from wav2lip_npu.doctor.rules import by_severity
        from wav2lip_npu.media.video_writer import check_writable
        from wav2lip_npu.preprocessing.report import report_in

        if self.json not in (None, STDOUT):
            check_writable(self.json)
        place = device.resolve(self.device)
        judge = self._judge()
        found = find_clips(root)
        lists = listed(self.filelists)
        if lists is None:
            if self.filelists != type(self).filelists:
                raise DataError(
                    f"no train.txt or val.txt in {self.filelists}. Pass the folder that holds them."
                )
            if not found:
                raise DataError(f"no clip is under {root}. Pass the folder that preprocess wrote.")
            log.info("no train.txt or val.txt in %s: all clips under %s are looked at", self.filelists, root)
            lists = {TRAIN: [Entry(name) for name in found], VAL: []}
            unlisted = 0
        else:
            names = [entry.name for entries in lists.values() for entry in entries]
            unlisted = count_unlisted(root, names, found)
        clips = {name: look_up(root, entries) for name, entries in lists.items()}
        with tqdm(unit="clip", disable=None, leave=False) as bar:

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            seen = examine(
                clips[TRAIN].usable,
                clips[VAL].usable,
                judge=judge,
                limit=None if self._writes_lists else self.num_clips,
                unlisted=unlisted,
                reported=[*report_in(root).read().values()],
                progress=show,
            )
        pace = self._pace(clips[TRAIN], place)
        findings = by_severity([*seen.findings, *(pace.findings() if pace else ())])
        for line in _figures(seen, pace):
            log.info("%s", line)
        for line in _told(findings):
            log.info("%s", line)
        if self._writes_lists:
            self._write_lists(lists, seen)
        if self.json is not None:
            reasons = {name: dict(each.reasons) for name, each in clips.items()}
            write_json(_everything(self.data_root, seen, findings, pace, reasons), self.json)
        return 0

    def _look_at_the_machine(self) -> int:
        from wav2lip_npu.doctor.machine import examine
        from wav2lip_npu.media.video_writer import check_writable

        given = [each.name for each in fields(self) if getattr(self, each.name) != each.default]
        if extra := set(given) - {"json", "device"}:
            raise UsageError(
                f"--{sorted(extra)[0]} is about clips. Pass the folder that preprocess wrote: "
                "doctor DATA_ROOT."
            )
        if self.json not in (None, STDOUT):
            check_writable(self.json)
        found = examine(self.device)
        for line in str(found).splitlines():
            log.info("%s", line)
        if self.json is not None:
            write_json(found.as_dict(), self.json)
        return 0 if found.is_sound else 1

    @property
    def _writes_lists(self) -> bool:
        return self.fix_offset or self.min_confidence is not None

    def _checked(self, data_root: str) -> Path:
        """The data root. Raises `DataError` or `UsageError`."""
        if not Path(data_root).is_dir():
            raise DataError(f"{data_root} is not a folder. Pass the folder that preprocess wrote.")
        if self._writes_lists and self.syncnet_checkpoint_path is None:
            raise UsageError(
                "--fix_offset and --min_confidence need a SyncNet. Pass --syncnet_checkpoint_path."
            )
        if self._writes_lists and os.path.realpath(self.outdir) == os.path.realpath(self.filelists):
            raise UsageError(f"--outdir {self.outdir} holds the lists that are read. Pass another folder.")
        if self.min_confidence is not None and not 0 <= self.min_confidence <= 1:
            raise UsageError(f"--min_confidence {self.min_confidence:g} is out of range. Pass 0 to 1.")
        for name in ("num_clips", "num_workers"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name} {getattr(self, name)} is not at least 1.")
        if self.width < 2 or self.width % 2 or self.width > 256:
            raise UsageError(f"--width {self.width} is not an even number from 2 to 256.")
        return Path(data_root)

    def _judge(self) -> Judge | None:
        if self.syncnet_checkpoint_path is None:
            return None
        from wav2lip_npu.doctor.dataset import judge_with
        from wav2lip_npu.models import checkpoint
        from wav2lip_npu.models.networks import SyncNet

        syncnet = checkpoint.load(self.syncnet_checkpoint_path, "syncnet").network()
        assert isinstance(syncnet, SyncNet)
        place = device.resolve(self.device)
        device.activate(place)
        syncnet.to(place, memory_format=device.memory_format(place))  # type: ignore[call-overload]
        return judge_with(syncnet, place)

    def _pace(self, train: Lookup, place: Any) -> Pace | None:
        from wav2lip_npu.doctor.loader_speed import measure

        if not train.usable.clips:
            return None
        try:
            return measure(train.usable.clips, place, width=self.width, num_workers=self.num_workers)
        except DataError as error:
            log.warning("the loader was not timed: %s", error)
            return None

    def _write_lists(self, lists: Mapping[str, list[Entry]], seen: Examination) -> None:
        from wav2lip_npu.data.file_lists import write_list
        from wav2lip_npu.doctor.fix_offsets import resync

        looked = {clip.name: clip for clip in seen.clips}
        for name, entries in lists.items():
            if not entries:
                continue
            new = resync(entries, looked, fix_offset=self.fix_offset, min_confidence=self.min_confidence)
            path = Path(self.outdir) / name
            write_list(path, new.entries)
            log.info(
                "%s: %d of %d clips kept, %d dropped, %d shifted, %d could not be judged and stay",
                path,
                len(new.entries),
                len(entries),
                new.dropped,
                new.shifted,
                new.unjudged,
            )
        log.info("train with --filelists %s", self.outdir)


def _everything(
    data_root: str,
    seen: Examination,
    findings: list[Finding],
    pace: Pace | None,
    reasons: dict[str, dict[str, str]],
) -> dict[str, Any]:
    return {
        "version": __version__,
        "data_root": data_root,
        "figures": seen.figures,
        "findings": [{**asdict(each), "severity": each.severity.name.lower()} for each in findings],
        "pace": asdict(pace) if pace else None,
        "shared_with_validation": [{"train": train, "val": val} for train, val in seen.shared],
        "rejected": reasons,
        "clips": [asdict(clip) for clip in seen.clips],
    }  # fmt: skip


def _figures(seen: Examination, pace: Pace | None) -> Iterator[str]:
    """What there is, in a few lines."""
    figures = seen.figures
    yield (
        f"{figures['clips']} clips to train on, {figures['hours']:.2f} hours; {figures['validation_clips']} "
        f"for validation, {figures['validation_hours']:.2f} hours; "
        f"{sum(figures['rejected'].values())} rejected; {figures['unlisted']} in no list"
    )
    if figures["speakers"]:
        yield f"folders (speakers): {figures['speakers']}, validation {figures['validation_speakers'] or 0}"
    total = figures["clips"] + figures["validation_clips"]
    some = "" if figures["looked_at"] == total else f" (of {total}, drawn at random)"
    yield f"looked at in depth: {figures['looked_at']} clips{some}; 5 %, median and 95 %:"
    for name, words in _SPREADS.items():
        if figures[name] is not None:
            low, middle, high = figures[name].values()
            yield f"  {words:<40}{low:>8g} {middle:>8g} {high:>8g}"
    if figures["source_fps"]:
        yield "fps of the videos: " + ", ".join(f"{fps} ({n})" for fps, n in figures["source_fps"].items())
    if figures["judged"]:
        yield "frames the sound is late: " + ", ".join(f"{k} ({n})" for k, n in figures["offsets"].items())
    yield f"pictures without a face, left out: {figures['missing_pictures']:.1%}"
    if pace is not None:
        yield str(pace)


_SPREADS = {
    "seconds_per_clip": "seconds",
    "face_px": "face in the video, px",
    "level_db": "loudness, dB",
    "speech": "share of the sound that is speech",
    "confidence": "confidence of the offset",
}


def _told(findings: list[Finding]) -> Iterator[str]:
    if not findings:
        yield "nothing was found that would hurt"
        return
    yield f"{len(findings)} findings, worst first:"
    for number, each in enumerate(findings, 1):
        yield f"{number:>3}. {each.severity.name.lower()}: {each}"
