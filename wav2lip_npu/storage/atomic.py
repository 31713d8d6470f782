"""Write files atomically: under a temporary name in the same folder, then renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

from wav2lip_npu.storage.regular_files import type_of


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path to write to. It is renamed to `path` at the end of the block.

    If the block raises, the temporary file is removed and `path` is unchanged. The folder is created. The
    content is flushed to disk before the rename, so that either the old or the new file exists after a power
    failure. Raises `OSError` if the file cannot be written or renamed, and if `path` is a FIFO, a socket or
    a device, which a rename would remove.
    """
    target = Path(path)
    part = part_path(target)
    _check_replaceable(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield part
        _flush_to_disk(part)
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


def remove_stale_parts(path: str | os.PathLike[str]) -> None:
    """Remove temporary files of processes that were killed while writing `path`."""
    target = Path(path)
    prefix = _prefix(target)
    with contextlib.suppress(OSError):
        for name in os.listdir(target.parent):
            writer = re.fullmatch(r"(\d+)-\d+\.part", name[len(prefix) :], re.ASCII)
            if name.startswith(prefix) and writer is not None and not _is_running(int(writer[1])):
                target.with_name(name).unlink(missing_ok=True)


def _check_replaceable(target: Path) -> None:
    try:
        kind = type_of(os.stat(target))
    except (FileNotFoundError, NotADirectoryError):
        return
    if kind is not None:
        raise OSError(errno.EEXIST, f"it is {kind}", os.fspath(target))


def _prefix(target: Path) -> str:
    return f"{target.name[:40]}.{zlib.crc32(os.fsencode(target.name)):08x}."


def _flush_to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
