"""Write files atomically: under a temporary name in the same folder, then renamed.

A temporary file is locked while it is written, which distinguishes it from the files of killed processes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import threading
import zlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from wav2lip_npu import signals, watchdog
from wav2lip_npu.storage.regular_files import type_of


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path to write to. It is renamed to `path` at the end of the block.

    If the block raises, the temporary file is removed and `path` is unchanged. The folder is created, and
    temporary files that killed processes have left for `path` are removed. The content is flushed to disk
    before the rename, so after a power failure either the old or the new file exists. Raises `OSError`
    if the file cannot be written or renamed, or if `path` is a FIFO, a socket or a device, which the
    rename would replace.
    """
    target = Path(path)
    _check_replaceable(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_stale_parts(target)
    part = part_path(target)
    with watchdog.cleanup(part.unlink), _locked(part):
        try:
            yield part
            signals.check()
            flush_to_disk(part)
            signals.check()
            _check_replaceable(target)
            os.replace(part, target)
        finally:
            with contextlib.suppress(OSError):
                part.unlink()


def real_name(path: str | os.PathLike[str]) -> str:
    """Return the name in the real folder. A link is not followed: writing replaces it, not its target."""
    name = Path(path)
    return os.path.join(os.path.realpath(name.parent), name.name)


def part_path(path: str | os.PathLike[str]) -> Path:
    """Return the temporary path for a file, unique to this process and thread.

    It is short, because the name of the file may already have the maximum length.
    """
    target = Path(path)
    return target.with_name(f"{_prefix(target)}{os.getpid()}-{threading.get_native_id()}.part")


def lock_path(path: str | os.PathLike[str]) -> Path:
    """Return the path of the lock of a file, see `locks.lock_output`."""
    target = Path(path)
    return target.with_name(f"{_prefix(target)}lock.part")


def remove_stale_parts(*paths: str | os.PathLike[str]) -> None:
    """Remove temporary files of processes that were killed while writing these files."""
    prefixes: defaultdict[Path, set[str]] = defaultdict(set)
    for target in map(Path, paths):
        prefixes[target.parent].add(_prefix(target))
    for folder, wanted in prefixes.items():
        _remove_stale_parts(folder, wanted)


def remove_all_stale_parts(folder: str | os.PathLike[str]) -> None:
    """Remove temporary files of processes that were killed while writing to a folder, such as a cache."""
    _remove_stale_parts(Path(folder), None)


def _remove_stale_parts(folder: Path, prefixes: set[str] | None) -> None:
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            written = re.fullmatch(r"(.*\.[0-9a-f]{8}\.)(\d+)-\d+\.part", name, re.ASCII | re.DOTALL)
            if written is None or (prefixes is not None and written[1] not in prefixes):
                continue
            if not _is_in_use(folder / name, int(written[2])):
                (folder / name).unlink(missing_ok=True)


def _check_replaceable(target: Path) -> None:
    try:
        kind = type_of(os.stat(target))
    except (FileNotFoundError, NotADirectoryError):
        return
    if kind is not None:
        raise OSError(errno.EEXIST, f"it is {kind}", os.fspath(target))


def _prefix(target: Path) -> str:
    return f"{target.name[:40]}.{zlib.crc32(os.fsencode(target.name)):08x}."


def flush_to_disk(path: Path) -> None:
    """Write a file, or the names in a folder, from the caches of the system to the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _locked(part: Path) -> Iterator[None]:
    """Create a temporary file and lock it until the block ends or the process dies."""
    handle = _create_locked(part)
    try:
        yield
    finally:
        os.close(handle)


def _create_locked(part: Path) -> int:
    """Create a temporary file, and return a descriptor that holds its lock."""
    while True:
        handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(part)):
                return handle
        os.close(handle)  # another process removed it before it was locked


def _is_in_use(part: Path, process: int) -> bool:
    """Return whether a temporary file is locked; on a file system without locks, whether its process runs.

    A process ID alone is unreliable: in containers, a new process often has the ID of a killed one.
    """
    try:
        handle = os.open(part, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    except OSError:
        return _is_running(process)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return _is_running(process)
    finally:
        os.close(handle)
    return False


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    try:  # without an init process, such as in some containers, a dead orphan stays a zombie
        state = Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except (OSError, IndexError):
        return True
    return state not in (b"Z", b"X")
