"""Find the videos below a folder and name their clips."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wav2lip_npu.data.clip_layout import PARTIAL_SUFFIX
from wav2lip_npu.errors import DataError
from wav2lip_npu.storage.regular_files import is_folder

log = logging.getLogger(__name__)

_SUFFIXES = (
    "3g2 3gp asf avi divx dv f4v flv m2t m2ts m2v m4v mkv mov mp4 mpe mpeg mpg mts mxf ogm ogv rm rmvb ts "
    "vob webm wmv"
)
SUFFIXES = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())
VIDEO_FILES = re.compile(rf".*\.({'|'.join(_SUFFIXES.split())})", re.IGNORECASE | re.DOTALL)
_RESOURCE_FORK = "._"
"""Prefix of the files that macOS adds next to each file on other file systems."""


@dataclass(frozen=True)
class Video:
    """A video of the data root."""

    path: Path
    name: str
    """Path relative to the data root, with slashes."""
    clip: str
    """Folder of its clip, relative to the root of the clips: the name without its suffix."""


def find_videos(data_root: str | os.PathLike[str], clips: str | os.PathLike[str]) -> list[Video]:
    """Return all videos below a folder, sorted by name.

    Links to folders are followed, and each folder is searched once. The folder `clips` is skipped. Raises
    `DataError` if there are no videos.
    """
    root = Path(data_root)
    if not root.is_dir():
        raise DataError(f"{root} is not a folder. Pass the folder of the videos as --data_root.")
    folders: dict[str, list[str]] = {}
    for folder, names in _folders(root, Path(clips)):
        videos = [name for name in names if _is_video(name)]
        if videos:
            relative = os.path.relpath(folder, root).replace(os.sep, "/")
            folders["" if relative == "." else relative + "/"] = videos
    if not folders:
        suffixes = " ".join(sorted(SUFFIXES))
        raise DataError(f"no videos below {root}. Pass a folder with videos ({suffixes}) as --data_root.")
    parents = {inner[: at + 1] for inner in folders for at, letter in enumerate(inner) if letter == "/"}
    all_videos = [
        Video(root / (folder + name), folder + name, folder + clip)
        for folder, names in folders.items()
        for name, clip in _clip_names(folder, names, parents).items()
    ]
    return sorted(all_videos, key=lambda video: video.name)


def _is_video(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(_RESOURCE_FORK)


def _clip_names(folder: str, names: list[str], parents: set[str]) -> dict[str, str]:
    """Return the clip of each video: its name without the suffix.

    The suffix is kept if the name would otherwise collide with another clip, a folder or an unfinished clip.
    """
    with_suffix: set[str] = set()
    while True:
        clips = {name: name if name in with_suffix else os.path.splitext(name)[0] for name in names}
        count = Counter(clips.values())
        ambiguous = {
            name
            for name, clip in clips.items()
            if count[clip] > 1 or f"{folder}{clip}/" in parents or clip.endswith(PARTIAL_SUFFIX)
        }
        if ambiguous <= with_suffix:
            return clips
        with_suffix |= ambiguous


def _folders(root: Path, clips: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield each folder once, with the names of its files; its real path takes precedence over links."""
    visited = {_identity(clips)} - {_identity(root), None}
    real, links = deque([root]), deque[Path]()
    while real or links:
        folder = real.popleft() if real else links.popleft()
        identity = _identity(folder)
        if identity is None or identity in visited:
            continue
        visited.add(identity)
        files = []
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            log.warning("cannot read folder %s: %s", folder, error.strerror)
            continue
        for entry in entries:
            if not is_folder(entry):
                files.append(entry.name)
            elif entry.is_symlink():
                links.append(Path(entry.path))
            else:
                real.append(Path(entry.path))
        yield folder, files


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
