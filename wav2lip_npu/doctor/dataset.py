"""Check a preprocessed data set for problems, before or during training."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wav2lip_npu.data.clip import Clip
from wav2lip_npu.data.clip_index import ClipIndex
from wav2lip_npu.data.file_lists import TRAIN, VAL, Entry
from wav2lip_npu.devices import device
from wav2lip_npu.doctor.dataset_report import DatasetReport
from wav2lip_npu.doctor.dataset_stats import measure_dataset
from wav2lip_npu.doctor.find_clips import count_unlisted, find_clips, look_up, read_lists
from wav2lip_npu.doctor.loader_speed import LoaderSpeed, measure_loader_speed
from wav2lip_npu.doctor.rules import by_severity, find_problems
from wav2lip_npu.doctor.sync_estimate import SyncEstimator, load_estimator
from wav2lip_npu.errors import DataError, UsageError
from wav2lip_npu.options import check_types, expect, nested_by_name, path_text, with_values
from wav2lip_npu.preprocessing.report import VideoResult, open_report

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

_FILELISTS = "filelists"
_MAX_CLIPS = 500
_MAX_CLIPS_WHILE_TRAINING = 200
_MAX_WIDTH = 256


@nested_by_name
@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """Options for checking a data set.

    Raises:
        UsageError: A value is out of range.

    """

    filelists: str = _FILELISTS
    """Folder of train.txt and val.txt. If it has neither, all clips below the data root are checked."""
    syncnet_checkpoint_path: str | None = None
    """SyncNet weights, to measure the audio offset of each clip. None: offsets are not measured."""
    num_clips: int | None = _MAX_CLIPS
    """Number of clips to measure in depth, drawn at random. None, or when writing new file lists: all."""
    num_workers: int = 16
    """Loader threads for the speed measurement, at most one per CPU core."""
    width: int = 32
    """Base channels of the SyncNet for the speed measurement; the published one has 32."""
    device: str = "auto"
    """auto (npu, cuda, cpu in this order), cpu, cuda[:i] or npu[:i]."""

    def __post_init__(self) -> None:
        """Check the values."""
        check_types(self)
        for name in ("num_clips", "num_workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name} {value} is out of range. Pass at least 1.")
        if self.width < 2 or self.width % 2 or self.width > _MAX_WIDTH:
            raise UsageError(f"--width {self.width} is invalid. Pass an even number from 2 to {_MAX_WIDTH}.")


def check_dataset(
    data_root: str | os.PathLike[str],
    *,
    options: DatasetOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
    **values: Any,
) -> DatasetReport:
    """Check the clips below a folder and the speed of loading them.

    Only caches are written: the faces of up to 32 clips, as in training, and the mel of clips of the
    original's preprocess.py.

    Args:
        data_root: Output folder of `preprocess`.
        options: Options. Default: `DatasetOptions()`.
        progress: Called with the number of clips measured and their total.
        **values: Options by name, such as `num_clips=50`; they override `options`.

    Returns:
        Statistics and problems.

    Raises:
        DataError: The folder has no clips, or a file list cannot be read.
        UsageError: An option is unknown or out of range.
        CheckpointError: The SyncNet weights cannot be used.
        DeviceError: The device does not exist.

    Example:
        >>> report = check_dataset("lrs2_preprocessed", num_clips=50)
        >>> for problem in report.problems:
        ...     print(problem.severity.name, problem)

    """
    options = with_values(expect(options, DatasetOptions), values)
    root = Path(path_text(data_root, "data_root"))
    if not root.is_dir():
        raise DataError(f"{data_root} is not a folder. Pass the output folder of preprocess.")
    resolved = device.resolve(options.device)
    estimate_sync = None
    if options.syncnet_checkpoint_path is not None:
        estimate_sync = load_estimator(options.syncnet_checkpoint_path, resolved)
    lists, unlisted = _lists(root, options.filelists)
    clips = {name: look_up(root, entries) for name, entries in lists.items()}
    report = check_clips(
        clips[TRAIN].usable,
        clips[VAL].usable,
        estimate_sync=estimate_sync,
        max_clips=options.num_clips,
        unlisted=unlisted,
        results=[*open_report(root).read().values()],
        progress=progress,
    )
    speed = _loader_speed(clips[TRAIN].usable.clips, resolved, options)
    slow = speed.problems() if speed else ()
    return replace(
        report,
        data_root=os.fspath(data_root),
        lists=lists,
        rejected={name: dict(lookup.reasons) for name, lookup in clips.items()},
        speed=speed,
        problems=by_severity([*report.problems, *slow]),
    )


def check_clips(
    train: ClipIndex,
    val: ClipIndex | None = None,
    *,
    estimate_sync: SyncEstimator | None = None,
    max_clips: int | None = _MAX_CLIPS,
    seed: int = 0,
    unlisted: int = 0,
    results: Sequence[VideoResult] = (),
    progress: Callable[[int, int], None] | None = None,
) -> DatasetReport:
    """Check training and validation clips; see `measure_dataset` for the arguments. Writes nothing."""
    stats = measure_dataset(
        train,
        val or ClipIndex([], Counter()),
        estimate_sync=estimate_sync,
        max_clips=max_clips,
        seed=seed,
        unlisted=unlisted,
        results=results,
        progress=progress,
    )
    return DatasetReport(stats=stats, problems=find_problems(stats))


def describe_problems(train: ClipIndex, val: ClipIndex) -> list[str]:
    """Check a sample of the clips and return one line per problem, worst first."""
    problems = check_clips(train, val, max_clips=_MAX_CLIPS_WHILE_TRAINING).problems
    return list(map(str, problems)) or ["doctor found no problems in the clips that it checked"]


def _lists(root: Path, filelists: str) -> tuple[dict[str, list[Entry]], int]:
    """Return the entries of the file lists, or of all clips, and the number of clips that are in no list."""
    clips = find_clips(root)
    lists = read_lists(root, filelists)
    if lists is not None:
        names = [entry.name for entries in lists.values() for entry in entries]
        return lists, count_unlisted(root, names, clips)
    if filelists != _FILELISTS:
        raise DataError(f"no train.txt or val.txt in {filelists}. Pass their folder as --filelists.")
    if not clips:
        raise DataError(f"no clips below {root}. Pass the output folder of preprocess.")
    log.info("no train.txt or val.txt in %s: checking all clips below %s", filelists, root)
    return {TRAIN: [Entry(name) for name in clips], VAL: []}, 0


def _loader_speed(
    clips: Sequence[Clip], resolved: torch.device, options: DatasetOptions
) -> LoaderSpeed | None:
    if not clips:
        return None
    try:
        return measure_loader_speed(clips, resolved, width=options.width, num_workers=options.num_workers)
    except DataError as error:
        log.warning("the speed of the loader was not measured: %s", error)
        return None
