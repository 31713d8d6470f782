"""The videos below a folder, and the name of the clip that each becomes."""

from __future__ import annotations

import logging
import os
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wav2lip_npu.data.clip_layout import PARTIAL_SUFFIX
from wav2lip_npu.errors import DataError

log = logging.getLogger(__name__)

_KNOWN = (
    "3g2 3gp asf avi divx dv f4v flv m2t m2ts m2v m4v mkv mov mp4 mpe mpeg mpg mts mxf ogm ogv rm rmvb ts "
    "vob webm wmv"
)
SUFFIXES = frozenset(f".{suffix}" for suffix in _KNOWN.split())
_RESOURCE_FORK = "._"  # how macOS keeps what other disks cannot: a file beside each file, no video


@dataclass(frozen=True)
class Video:
    """A video and its names."""

    path: Path
    name: str
    """Relative to the data root, folders divided by slashes."""
    clip: str
    """Folder of its clip, relative to the root of all clips: the name without suffix."""


def find_videos(data_root: str | os.PathLike[str], clips: str | os.PathLike[str]) -> list[Video]:
    """All videos at any depth below a folder, by name; folders that are links are followed, each once.

    The folder `clips`, when it is inside, is not searched. Raises `DataError` when there is no video.
    """
    root = Path(data_root)
    if not root.is_dir():
        raise DataError(f"no folder {root}. Pass the folder that holds the videos as --data_root.")
    folders: dict[str, list[str]] = {}
    for folder, names in _folders(root, Path(clips)):
        found = [name for name in names if _is_video(name)]
        if found:
            relative = os.path.relpath(folder, root).replace(os.sep, "/")
            folders["" if relative == "." else relative + "/"] = found
    if not folders:
        known = " ".join(sorted(SUFFIXES))
        raise DataError(
            f"no video in {root} or below it. Pass a folder with videos ({known}) as --data_root."
        )
    parents = {inner[: at + 1] for inner in folders for at, letter in enumerate(inner) if letter == "/"}
    videos = [
        Video(root / (folder + name), folder + name, folder + clip)
        for folder, names in folders.items()
        for name, clip in _clip_names(folder, names, parents).items()
    ]
    return sorted(videos, key=lambda video: video.name)


def _is_video(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(_RESOURCE_FORK)


def _clip_names(folder: str, names: list[str], parents: set[str]) -> dict[str, str]:
    """The name without suffix; with it where that is another's, a folder's or an unfinished clip's too."""
    whole: set[str] = set()
    while True:
        clips = {name: name if name in whole else os.path.splitext(name)[0] for name in names}
        count = Counter(clips.values())
        unclear = {
            name
            for name, clip in clips.items()
            if count[clip] > 1 or f"{folder}{clip}/" in parents or clip.endswith(PARTIAL_SUFFIX)
        }
        if unclear <= whole:
            return clips
        whole |= unclear


def _folders(root: Path, clips: Path) -> Iterator[tuple[Path, list[str]]]:
    """Each real folder once, with the names of its files; by its own path rather than through a link."""
    seen = {_identity(clips)} - {_identity(root), None}
    real, links = deque([root]), deque[Path]()
    while real or links:
        folder = real.popleft() if real else links.popleft()
        identity = _identity(folder)
        if identity is None or identity in seen:
            continue
        seen.add(identity)
        files = []
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            log.warning("cannot read folder %s: %s", folder, error.strerror)
            continue
        for entry in entries:
            if not entry.is_dir():
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
