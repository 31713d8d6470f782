"""Preprocess a folder of videos: one clip per video, in worker processes, resumable."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2

from wav2lip_npu import signals, watchdog
from wav2lip_npu.data import file_lists
from wav2lip_npu.data.clip_layout import AUDIO_FILE, CLIP_FORMAT
from wav2lip_npu.data.clip_writer import clean_up, read_description
from wav2lip_npu.devices import device
from wav2lip_npu.errors import DataError, UsageError
from wav2lip_npu.faces.detectors import DetectorName, detector_inputs, load_detector
from wav2lip_npu.options import check_types, expect, nested_by_name, path_text, resolved, with_values
from wav2lip_npu.parallel.processes import map_in_processes
from wav2lip_npu.parallel.work_queue import Failure
from wav2lip_npu.preprocessing.clip_options import ClipOptions
from wav2lip_npu.preprocessing.find_videos import VIDEO_FILES, Video, find_videos
from wav2lip_npu.preprocessing.limited_detector import LimitedDetector
from wav2lip_npu.preprocessing.make_clip import DroppedError, make_clip, source_of
from wav2lip_npu.preprocessing.report import (
    PreprocessSummary,
    VideoResult,
    failed_result,
    ok_result,
    open_report,
)
from wav2lip_npu.storage.atomic import remove_stale_parts
from wav2lip_npu.storage.locks import lock_folder
from wav2lip_npu.storage.outputs import InputPath, OutputPath, check_outputs

log = logging.getLogger(__name__)

_WITHOUT_TORCH = "hog"
"""The detector that runs on the CPU only and does not import torch."""
_WORKERS_PER_CARD = 8


@nested_by_name
@dataclass(frozen=True, kw_only=True)
class PreprocessOptions:
    """Options of preprocessing.

    Raises:
        UsageError: A value is unknown or out of range.

    """

    clip: ClipOptions = field(default_factory=ClipOptions)
    detector: DetectorName = "auto"
    """Face detector. auto: retinaface. hog: dlib's, for frontal faces. s3fd: the original's, needs a file."""
    batch_size: int = 32
    """Frames per detector call."""
    ngpu: int = 1
    """Number of NPUs or GPUs that detect faces. Ignored on the CPU."""
    workers: int | None = None
    """Number of processes that decode and detect. None: one per CPU core, at most 8 per card."""
    device: str = "auto"
    """Device of the detector: auto (npu, cuda, cpu in this order), cpu, cuda[:i] or npu[:i]."""
    filelists: str = "filelists"
    """Folder for train.txt and val.txt. Existing lists are not changed."""
    seed: int = 0
    """Seed of the split into train.txt and val.txt."""

    def __post_init__(self) -> None:
        """Check the values."""
        check_types(self)
        for name in ("batch_size", "ngpu", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name} {value} is out of range. Pass at least 1.")


@signals.deferred()
def preprocess(
    data_root: str | os.PathLike[str],
    preprocessed_root: str | os.PathLike[str],
    *,
    options: PreprocessOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
    **values: Any,
) -> PreprocessSummary:
    """Convert all videos of a folder to training clips.

    A clip is a folder with face crops at 25 fps, audio at 16 kHz and its mel. A video that is unsuitable for
    training fails with a reason in `report.jsonl` and does not affect the others. A second run creates only
    the clips that are missing, or whose video or options have changed. At the end, the file lists
    `train.txt` and `val.txt` are written if they do not exist.

    With more than one worker, processes are spawned, so a script must call this under
    `if __name__ == "__main__":`.

    Args:
        data_root: Folder of videos, searched recursively.
        preprocessed_root: Output folder, created if missing. The clip of `a/b.mp4` is `a/b`.
        options: Options. Default: `PreprocessOptions()`.
        progress: Called in this thread with the number of videos done and their total.
        **values: Options by name, such as `workers=4` or `min_face_px=64`; they override `options`.

    Returns:
        The result of each video.

    Raises:
        DataError: There are no videos, or another run is writing to the folder.
        OutputError: The clips, the report or the file lists cannot be written.
        UsageError: An option is unknown or out of range.
        FaceError: The weights of the detector are missing.
        DeviceError: A device does not exist, or detection failed on an accelerator.
        KeyboardInterrupt: Finished clips are kept, unfinished ones are removed.

    Example:
        >>> summary = wav2lip_npu.preprocess("videos", "clips", workers=4)
        >>> print(summary.count("ok"), summary.reasons)

    """
    options = with_values(expect(options, PreprocessOptions), values)
    data_root = path_text(data_root, "data_root")
    root = Path(path_text(preprocessed_root, "preprocessed_root"))
    _check_outputs(data_root, root, options)
    videos = find_videos(data_root, root)
    detector = load_detector(options.detector).name
    devices = _devices(detector, options)
    workers = options.workers or min(device.cpu_count(), _WORKERS_PER_CARD * len(devices))
    log.info("device %s, detector %s, %d workers", " ".join(devices), detector, workers)
    log.info("%s", resolved(options))
    maker = ClipMaker(root, detector, options.clip, options.batch_size, tuple(devices), workers == 1)
    with _locked(root):
        summary = _make_clips(videos, root, maker, workers, progress)
        _write_file_lists(summary.results, root, options)
    return summary


def _check_outputs(data_root: str | os.PathLike[str], root: Path, options: PreprocessOptions) -> None:
    """Check all output files and folders. Raises `OutputError`."""
    outputs = [OutputPath("--preprocessed_root", root, is_folder=True)]
    outputs.append(OutputPath("--preprocessed_root", open_report(root).path))
    lists = (Path(options.filelists) / name for name in file_lists.LISTS)
    outputs += [OutputPath("--filelists", path) for path in lists if not os.path.lexists(path)]
    check_outputs(outputs, [InputPath("--data_root", data_root, VIDEO_FILES), *detector_inputs()])


@dataclass(frozen=True)
class ClipMaker:
    """Sets up a worker process. It is sent to the processes, so it has only plain values."""

    root: Path
    detector: str
    options: ClipOptions
    batch_size: int
    devices: tuple[str, ...]
    """Devices, assigned to workers in turn."""
    is_single: bool
    """Whether there is only one worker, which may use all CPU cores."""

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that a clip depends on; if they change, it is created again."""
        return {"detector": self.detector, **self.options.as_dict()}

    def __call__(self, number: int) -> Callable[[Video], VideoResult]:
        """Return the function with which worker `number` processes a video; called in its process."""
        spec = self.devices[number % len(self.devices)]
        if not self.is_single:
            cv2.setNumThreads(1)
        if self.detector != _WITHOUT_TORCH:
            import torch

            device.activate(device.resolve(spec))
            if not self.is_single:
                torch.set_num_threads(1)
        detector = LimitedDetector(load_detector(self.detector, spec), self.batch_size, spec)

        def make(video: Video) -> VideoResult:
            try:
                return ok_result(video, self.settings, make_clip(video, self.root, detector, self.options))
            except DroppedError as dropped:
                return failed_result(video, self.settings, dropped.reason, dropped.detail)

        return make


def _devices(detector: str, options: PreprocessOptions) -> list[str]:
    """Return the devices that detect faces. Raises `DeviceError` if one of them does not exist."""
    if detector == _WITHOUT_TORCH and options.device in ("auto", device.HOST):
        return [device.HOST]  # saves a second of importing torch
    first = device.resolve(options.device)
    if first.type == device.HOST or detector == _WITHOUT_TORCH:
        return [device.HOST]
    devices = [f"{first.type}:{(first.index or 0) + number}" for number in range(options.ngpu)]
    device.resolve(devices[-1])
    return devices


def _make_clips(
    videos: Sequence[Video],
    root: Path,
    maker: ClipMaker,
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> PreprocessSummary:
    """Create the missing clips; write the results of all videos to the report and return them."""
    report = open_report(root)
    remove_stale_parts(report.path)
    _clean_up(videos, root)
    earlier = report.read()
    results: dict[Video, VideoResult] = {}
    for video in videos:
        signals.check()
        known = _earlier_result(video, root, maker.settings, earlier.get(video.name))
        if known is not None:
            results[video] = known
    missing = [video for video in videos if video not in results]
    maker = replace(maker, is_single=min(workers, len(missing)) <= 1)
    progress = progress or (lambda done, total: None)
    progress(len(results), len(videos))
    with contextlib.ExitStack() as stack:
        # The workers have been killed, possibly in the middle of a clip.
        stack.callback(_clean_up, missing, root)
        stack.enter_context(watchdog.cleanup(functools.partial(_clean_up, missing, root)))
        finished = stack.enter_context(contextlib.closing(map_in_processes(missing, maker, workers)))
        for video, result in finished:
            if isinstance(result, Failure):
                result = failed_result(video, maker.settings, "unreadable", result.detail)
            report.append(result)
            results[video] = result
            progress(len(results), len(videos))
    summary = PreprocessSummary(sorted(results.values(), key=lambda result: result.video), report.path)
    report.rewrite(summary.results)
    return summary


def _clean_up(videos: Sequence[Video], root: Path) -> None:
    """Remove the unfinished clips of videos."""
    for folder in sorted({(root / video.clip).parent for video in videos}):
        clean_up(folder)


def _earlier_result(
    video: Video, root: Path, settings: dict[str, Any], before: VideoResult | None
) -> VideoResult | None:
    """Return the result of a video from an earlier run, or None if it must be processed (again)."""
    clip = root / video.clip
    source = source_of(video)
    description = read_description(clip)
    if description is not None:
        about = description["source"]
        same = (
            {"detector": description.get("detector"), **description.get("options", {})} == settings
            and description["format"] == CLIP_FORMAT
            and {key: about.get(key) for key in ("bytes", "mtime_ns")} == source
        )
        if same:
            return ok_result(video, settings, description)
    elif os.path.lexists(clip):
        detail = f"{clip.name} was not written by wav2lip-npu and is left unchanged"
        return VideoResult(
            video=video.name, clip=video.clip, status="kept", detail=detail, source=source, options=settings
        )
    if before is not None and before.status == "failed" and source is not None:
        now = (video.clip, source, settings, CLIP_FORMAT)
        return before if (before.clip, before.source, before.options, before.format) == now else None
    return None


def _write_file_lists(results: Sequence[VideoResult], root: Path, options: PreprocessOptions) -> None:
    """Write the missing file lists, and warn of clips that are in no list."""
    usable = [result.clip for result in results if result.status == "ok" or _is_clip(result, root)]
    for path in file_lists.write_split(options.filelists, usable, seed=options.seed):
        log.info("%s written", path)
    for line in file_lists.missing_entries(options.filelists, usable) if usable else ():
        log.warning("%s", line)


def _is_clip(result: VideoResult, root: Path) -> bool:
    """Return whether a kept folder looks like a clip of the original's preprocess.py."""
    return result.status == "kept" and (root / result.clip / AUDIO_FILE).is_file()


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Create the root of the clips and lock it. Raises `DataError` and `OutputError`."""
    with lock_folder(root) as is_alone:
        if not is_alone:
            raise DataError(f"another preprocess is running in {root}. Wait for it, or stop it.")
        yield
