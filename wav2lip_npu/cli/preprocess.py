"""The `preprocess` command: all videos of a folder to clips, resumable, in as many processes as asked for."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2

from wav2lip_npu import __version__, device
from wav2lip_npu.data import file_lists as filelists
from wav2lip_npu.data.clip_layout import AUDIO_FILE, CLIP_FORMAT
from wav2lip_npu.data.clip_writer import clean_up, read_description
from wav2lip_npu.errors import DataError, UsageError
from wav2lip_npu.faces.detectors import load_detector
from wav2lip_npu.media.video_writer import check_writable
from wav2lip_npu.parallel.processes import map_in_processes
from wav2lip_npu.parallel.work_queue import Failure
from wav2lip_npu.preprocessing import report as records
from wav2lip_npu.preprocessing.find_videos import Video, find_videos
from wav2lip_npu.preprocessing.make_clip import (
    ClipOptions,
    DroppedError,
    LimitedDetector,
    make_clip,
    source_of,
)
from wav2lip_npu.preprocessing.report import REPORT_FILE, Record
from wav2lip_npu.storage.atomic import remove_stale_parts
from wav2lip_npu.storage.locks import lock_folder

log = logging.getLogger(__name__)

_ON_CPU = "hog"
"""The detector that knows no other device, and needs no torch."""
_WORKERS_PER_CARD = 8


@dataclass(frozen=True, kw_only=True)
class PreprocessCommand:
    """Cut clips to train on out of videos: face crops at 25 fps, sound at 16 kHz, mel.

    wav2lip-npu preprocess --data_root LRS2_partly --preprocessed_root lrs2_preprocessed
    """

    data_root: str
    """Folder with videos, at any depth."""
    preprocessed_root: str
    """Folder for the clips: that of a/b.mp4 is a/b in it. Clips that are there are not made again."""
    clips: ClipOptions = field(default_factory=ClipOptions)
    detector: str = "auto"
    """auto (s3fd when its weights are there, else hog), s3fd, hog, or another of face_alignment by name."""
    batch_size: int = 32
    """Most frames a detector call."""
    ngpu: int = 1
    """Cards to find faces on, NPUs or GPUs; of no effect where faces are found on the CPU."""
    workers: int | None = None
    """Processes that decode and find faces. (default: one a core, at most 8 a card)"""
    device: str = "auto"
    """auto (npu, cuda, cpu in this order), cpu, cuda[:i] or npu[:i]."""
    filelists: str = "filelists"
    """Folder for train.txt and val.txt, which are written where there are none."""
    seed: int = 0
    """Draws the clips or speakers of val.txt."""

    def run(self) -> int:
        """Make the clips that are missing; 1 when a video failed, else 0."""
        log.info("wav2lip-npu %s", __version__)
        self._check()
        root = Path(self.preprocessed_root)
        videos = find_videos(self.data_root, root)
        detector = load_detector(self.detector).name
        cards = self._cards(detector)
        workers = self.workers or min(device.cpu_count(), _WORKERS_PER_CARD * len(cards))
        log.info("device %s, detector %s, %d workers", " ".join(cards), detector, workers)
        log.info("%s", ", ".join(f"{name}={value!r}" for name, value in self._shaping(detector).items()))
        for name in (filelists.TRAIN, filelists.VAL):
            if not os.path.lexists(path := Path(self.filelists) / name):
                check_writable(path)  # now, not after hours
        with _locked(root):
            try:
                found = self._process(videos, root, detector, cards, workers)
            except KeyboardInterrupt as stop:
                raise type(stop)("the finished clips are kept. Run the same again to go on") from None
            usable = [each.clip for each in found if each.status == "ok" or _is_clip(each, root)]
            for path in filelists.write_split(self.filelists, usable, seed=self.seed):
                log.info("%s written", path)
            for line in filelists.missing_entries(self.filelists, usable) if usable else ():
                log.warning("%s", line)
        for line in records.summary(found):
            log.info("%s", line)
        log.info("clips in %s, what became of each video in %s", root, root / REPORT_FILE)
        return int(any(each.status == "failed" for each in found))

    def _check(self) -> None:
        self.clips.check()
        for name in ("batch_size", "ngpu", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name} {value} is not at least 1.")

    def _cards(self, detector: str) -> list[str]:
        """Where faces are found. Raises `DeviceError` when one of the cards is not there."""
        if detector == _ON_CPU and self.device in ("auto", device.HOST):
            return [device.HOST]  # without a second spent on importing torch
        first = device.resolve(self.device)
        if first.type == device.HOST or detector == _ON_CPU:
            return [device.HOST]
        cards = [f"{first.type}:{(first.index or 0) + number}" for number in range(self.ngpu)]
        device.resolve(cards[-1])
        return cards

    def _shaping(self, detector: str) -> dict[str, Any]:
        """What the clips depend on besides the videos."""
        return {"detector": detector, **asdict(self.clips)}

    def _process(
        self, videos: Sequence[Video], root: Path, detector: str, cards: Sequence[str], workers: int
    ) -> list[Record]:
        """What became of each video, new or before; the report says the same."""
        from tqdm import tqdm

        shaping = self._shaping(detector)
        report = records.report_in(root)
        remove_stale_parts(report.path)
        for folder in sorted({(root / video.clip).parent for video in videos}):
            clean_up(folder)
        known = report.read()
        found = {video: _known(video, root, shaping, known.get(video.name)) for video in videos}
        missing = [video for video in videos if found[video] is None]
        work = functools.partial(
            _prepare, root, detector, self.clips, self.batch_size, cards, min(workers, len(missing)) > 1
        )
        done = len(videos) - len(missing)
        with (
            tqdm(total=len(videos), initial=done, unit="video", disable=None) as bar,
            contextlib.closing(map_in_processes(missing, work, workers)) as results,
        ):
            for video, result in results:
                if isinstance(result, Failure):
                    result = _failed(video, shaping, "unreadable", result.detail)
                report.append(result)
                found[video] = result
                bar.update()
        finished = [each for each in found.values() if each is not None]
        report.rewrite(sorted(finished, key=lambda record: record.video))
        return finished


def _prepare(
    root: Path,
    detector: str,
    options: ClipOptions,
    batch_size: int,
    cards: Sequence[str],
    is_one_of_many: bool,
    number: int,
) -> Callable[[Video], Record]:
    """What a worker does with each video; run in its process."""
    card = cards[number % len(cards)]
    if is_one_of_many:
        cv2.setNumThreads(1)
    if detector != _ON_CPU:
        import torch

        device.activate(device.resolve(card))
        if is_one_of_many:
            torch.set_num_threads(1)
    limited = LimitedDetector(load_detector(detector, card), batch_size, card)
    shaping = {"detector": detector, **asdict(options)}

    def work(video: Video) -> Record:
        try:
            return _ok(video, shaping, make_clip(video, root, limited, options))
        except DroppedError as dropped:
            return _failed(video, shaping, dropped.reason, dropped.detail)

    return work


def _known(video: Video, root: Path, shaping: dict[str, Any], before: Record | None) -> Record | None:
    """What became of a video in an earlier run, `None` when it has to be looked at (again)."""
    clip = root / video.clip
    source = source_of(video)
    description = read_description(clip)
    if description is not None:
        about = description["source"]
        same = (
            {"detector": description.get("detector"), **description.get("options", {})} == shaping
            and description["format"] == CLIP_FORMAT
            and {key: about.get(key) for key in ("bytes", "mtime_ns")} == source
        )
        if same:
            return _ok(video, shaping, description)
    elif os.path.lexists(clip):
        detail = f"{clip.name} is not of our making and was left as it is"
        return Record(
            video=video.name, clip=video.clip, status="kept", detail=detail, source=source, options=shaping
        )
    if before is not None and before.status == "failed" and source is not None:
        now = (video.clip, source, shaping, CLIP_FORMAT)
        return before if (before.clip, before.source, before.options, before.format) == now else None
    return None


def _ok(video: Video, shaping: dict[str, Any], description: dict[str, Any]) -> Record:
    source = {key: description["source"][key] for key in ("bytes", "mtime_ns")}
    frames = len(description["frames"])
    return Record(
        video=video.name,
        clip=video.clip,
        status="ok",
        frames=frames,
        seconds=frames / description["fps"],
        source=source,
        options=shaping,
    )


def _failed(video: Video, shaping: dict[str, Any], reason: str, detail: str) -> Record:
    return Record(
        video=video.name,
        clip=video.clip,
        status="failed",
        reason=reason,
        detail=detail,
        source=source_of(video),
        options=shaping,
    )


def _is_clip(record: Record, root: Path) -> bool:
    """Whether a folder that was there before looks like a clip of the original's."""
    return record.status == "kept" and (root / record.clip / AUDIO_FILE).is_file()


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    """The folder of the clips, made if need be, for this process alone. Raises `DataError`."""
    with contextlib.ExitStack() as stack:
        try:
            root.mkdir(parents=True, exist_ok=True)
            alone = stack.enter_context(lock_folder(root))
        except OSError as error:
            raise DataError(
                f"cannot write {root}: {error.strerror}. Pass another --preprocessed_root."
            ) from None
        if not alone:
            raise DataError(f"another preprocess works in {root}. Wait for it or end it.")
        yield
