"""Files that are whole or not there: written beside their place and renamed."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """The name to write to; it takes the place of `path` when the block ends, or is removed when it raises.

    The folder is made. What was written is on the disk before it gets its name, so that a machine that
    loses its power leaves the old file or the new one. What cannot be made, written or renamed raises
    `OSError`.
    """
    target = Path(path)
    part = part_of(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield part
        _to_disk(part)
        os.replace(part, target)
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


@contextlib.contextmanager
def alone_in(folder: str | os.PathLike[str]) -> Iterator[bool]:
    """Whether no other process holds the folder; this one then does until the block ends, killed or not.

    True on a file system that knows no locks. Raises `OSError` when the folder cannot be opened.
    """
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        alone = True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            alone = False
        except OSError:
            pass
        yield alone
    finally:
        os.close(handle)


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def part_of(path: str | os.PathLike[str]) -> Path:
    """The name while writing; two processes or threads that write the same file do not meet.

    It is short, as a name that is just allowed may not be made longer.
    """
    target = Path(path)
    return target.with_name(f"{_beginning(target)}{os.getpid()}-{threading.get_native_id()}.part")


def remove_stale_parts(path: str | os.PathLike[str]) -> None:
    """Remove what processes that were killed while they wrote `path` left beside it."""
    target = Path(path)
    beginning = _beginning(target)
    with contextlib.suppress(OSError):
        for name in os.listdir(target.parent):
            writer = re.fullmatch(r"(\d+)-\d+\.part", name[len(beginning) :], re.ASCII)
            if name.startswith(beginning) and writer is not None and not _is_running(int(writer[1])):
                target.with_name(name).unlink(missing_ok=True)


def _beginning(target: Path) -> str:
    return f"{target.name[:40]}.{zlib.crc32(os.fsencode(target.name)):08x}."


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    try:  # a dead one that nobody has asked about, as in a container without an init, is there for ever
        state = Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except (OSError, IndexError):
        return True
    return state not in (b"Z", b"X")
