"""Find the videos to evaluate, and the original recording of each."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from wav2lip_npu.errors import UsageError
from wav2lip_npu.options import path_text
from wav2lip_npu.preprocessing.find_videos import SUFFIXES
from wav2lip_npu.storage.regular_files import read_limited

log = logging.getLogger(__name__)

_MAX_LIST = 64 << 20
"""Size limit of a list of the original, in bytes. The largest one has 2 MB."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A generated video, and what it is compared with."""

    generated: str
    """Video to evaluate."""
    truth: str | None = None
    """Original recording: the video that the generated one shows with another mouth. None: none."""
    silent: str | None = None
    """The same video generated with silent audio. None: leak is not measured."""
    report: str | None = None
    """Report of the dub or batch that wrote the video."""

    def __post_init__(self) -> None:
        """Raise `UsageError` if a file is not a path."""
        for name in ("generated", "truth", "silent", "report"):
            value = getattr(self, name)
            if value is not None or name == "generated":
                object.__setattr__(self, name, path_text(value, f"the {name} video"))


PathLike: TypeAlias = str | os.PathLike[str]


def pair_videos(
    generated: Pair | PathLike | Iterable[Pair | PathLike],
    truth: PathLike | None = None,
    silent: PathLike | None = None,
    reports: PathLike | None = None,
) -> list[Pair]:
    """Return the videos to evaluate. Files in folders belong together if they have the same name.

    `talk__speech.mp4`, as `batch` names its outputs, also belongs to `talk.mp4`. What a `Pair` names itself
    comes before `truth`, `silent` and `reports`.

    Raises:
        UsageError: A path does not exist, a folder has no videos, or none of them belongs to a video.

    """
    items = [generated] if isinstance(generated, (Pair, str, os.PathLike)) else list(generated)
    pairs: list[Pair] = []
    for item in items:
        if isinstance(item, Pair):
            pairs.append(item)
        else:
            pairs += [Pair(generated=path) for path in _videos(path_text(item, "the generated video"))]
    if not pairs:
        raise UsageError("no videos to evaluate. Pass files, folders or a table.")
    names = [pair.generated for pair in pairs]
    truths, silents = _partners(names, truth, "--truth"), _partners(names, silent, "--silent")
    return [
        Pair(
            generated=pair.generated,
            truth=pair.truth or original,
            silent=pair.silent or quiet,
            report=pair.report or (None if reports is None else path_text(reports, "--reports")),
        )
        for pair, original, quiet in zip(pairs, truths, silents, strict=True)
    ]


def _videos(path: str) -> list[str]:
    """Return a file, or the videos directly in a folder."""
    if os.path.isfile(path):
        return [path]
    if not os.path.isdir(path):
        raise UsageError(f"{path} does not exist. Pass a video, a folder of videos or a table.")
    names = sorted(name for name in os.listdir(path) if _is_video(name))
    if not names:
        raise UsageError(f"{path} has no videos. Pass another folder.")
    return [os.path.join(path, name) for name in names]


def _is_video(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith("._")


def _partners(paths: Sequence[str], other: PathLike | None, flag: str) -> list[str | None]:
    """Return for each video the file `other`, or the one in that folder that belongs to it, if any."""
    if other is None:
        return [None] * len(paths)
    other = path_text(other, flag)
    if os.path.isfile(other):
        return [other] * len(paths)
    if not os.path.isdir(other):
        raise UsageError(f"{flag} {other} does not exist. Pass a video or a folder of videos.")
    by_stem = {Path(name).stem: name for name in sorted(os.listdir(other), reverse=True) if _is_video(name)}
    names = [_name_of(Path(path).stem, by_stem) for path in paths]
    if not any(names):
        raise UsageError(
            f"{flag} {other} has no video named like {os.path.basename(paths[0])}. Pass a folder with videos "
            "of the same names."
        )
    if lacking := names.count(None):
        log.warning("%s has no video named like %d of %d videos", flag, lacking, len(names))
    return [None if name is None else os.path.join(other, name) for name in names]


def _name_of(stem: str, by_stem: Mapping[str, str]) -> str | None:
    """Return the video with this stem, or else with the longest part of it that ends before `__`."""
    while stem not in by_stem and stem:
        stem = stem.rpartition("__")[0]
    return by_stem.get(stem)


def read_original_list(
    filelist: PathLike, data_root: PathLike, generated: PathLike
) -> tuple[list[Pair], list[str]]:
    """Return the videos of a list of Wav2Lip's evaluation, and the names of those that are missing.

    Line n belongs to the video `n.mp4` in the folder `generated`, from 0. A line of lrs2.txt, lrs3.txt and
    lrw.txt is `AUDIO VIDEO` without suffixes; one of ReSyncED is `VIDEO AUDIO` with suffixes.

    Raises:
        UsageError: The list cannot be read, `data_root` is not a folder, or no video exists.

    """
    if not os.path.isdir(data_root):
        raise UsageError(f"--data_root {data_root} is not a folder. Pass that of the videos of --filelist.")
    try:
        lines = read_limited(filelist, _MAX_LIST).decode().splitlines()
    except OSError as error:
        raise UsageError(f"cannot read {filelist}: {error.strerror}. Check --filelist.") from None
    except UnicodeDecodeError:
        raise UsageError(f"{filelist} is not a text file. Pass a list of Wav2Lip's evaluation.") from None
    pairs, missing = [], []
    for number, line in enumerate(lines):
        truth = os.path.join(data_root, _video_of(filelist, number, line.split()))
        video = os.path.join(generated, f"{number}.mp4")
        if not os.path.exists(video):
            missing.append(video)
        else:
            pairs.append(Pair(generated=video, truth=truth if os.path.exists(truth) else None))
    if not pairs:
        raise UsageError(f"{generated} has no video of {filelist}, such as 0.mp4 for its first line.")
    if lacking := sum(pair.truth is None for pair in pairs):
        log.warning("--data_root %s lacks the original recordings of %d videos", data_root, lacking)
    return pairs, missing


def _video_of(filelist: PathLike, number: int, fields: Sequence[str]) -> str:
    """Return the face video of a line, relative to the data root."""
    if len(fields) != 2:
        raise UsageError(
            f"{filelist}, line {number + 1}: {' '.join(fields)!r:.80} is not a pair of audio and video."
        )
    first, second = fields
    return first if os.path.splitext(first)[1].lower() in SUFFIXES else f"{second}.mp4"
