"""Open the zip archive of a weights file after checking its sizes and checksums."""

from __future__ import annotations

import contextlib
import io
import os
import zipfile
from collections.abc import Iterator

from wav2lip_npu.storage.regular_files import descriptor_of

_MAX_READ = 8 << 20
"""Limit in bytes of a single read. The directory of an archive with 1000 tensors has 0.1 MB."""
_CHUNK = 1 << 20
_MAX_RATIO, _FREE = 20, 16 << 20
"""An archive may inflate to this multiple of its size plus some bytes. Weights hardly compress: a checkpoint
with zeros as optimizer state inflates to three times its size."""


class ArchiveError(ValueError):
    """A damaged archive, or one that would exhaust memory or time."""


class _BoundedReader(io.BufferedReader):
    """File with a limit on the size of a single read."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes. Raises `ArchiveError` instead of reading too many."""
        wanted = os.fstat(self.fileno()).st_size - self.tell() if size is None or size < 0 else size
        if wanted > _MAX_READ:
            raise ArchiveError(f"its directory has {wanted:,} bytes")
        return super().read(wanted)


@contextlib.contextmanager
def open_archive(path: str | os.PathLike[str]) -> Iterator[zipfile.ZipFile]:
    """Open and check an archive.

    All members are read once to check their checksums. If all of these are 0, the archive has none.
    Raises `OSError`, `ArchiveError`, `zipfile.BadZipFile`, and other errors of a damaged archive.
    """
    descriptor = descriptor_of(path)
    with _BoundedReader(io.FileIO(descriptor)) as file, zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        _check_sizes(members, os.fstat(descriptor).st_size)
        has_check_sums = any(member.CRC for member in members)
        for member in members:
            if has_check_sums:
                _check_content(archive, member)
            else:
                del member.CRC  # makes zipfile skip the check
        yield archive


def read_member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """Return a member of at most `limit` bytes. Raises `ArchiveError`."""
    size = archive.getinfo(name).file_size
    if size > limit:
        raise ArchiveError(f"{name!r:.100} has {size:,} bytes, more than {limit:,}")
    with archive.open(name) as file:
        return b"".join(iter(lambda: file.read(_CHUNK), b""))


def root_of(archive: zipfile.ZipFile) -> str:
    """Return the folder of the first member with its slash, as PyTorch does; empty if it has none."""
    first = next(iter(archive.namelist()), "")
    return first[: first.find("/") + 1]


def _check_sizes(members: list[zipfile.ZipInfo], size: int) -> None:
    names: set[str] = set()
    for member in members:
        name = f"{member.filename!r:.100}"
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.flag_bits & 1:
            raise ArchiveError(f"{name} is encrypted or uses an unknown compression")
        if member.compress_type == zipfile.ZIP_STORED and member.compress_size != member.file_size:
            raise ArchiveError(f"{name} has two different sizes")
        if (folded := member.filename.casefold()) in names:  # PyTorch ignores case
            raise ArchiveError(f"{name} occurs twice")
        names.add(folded)
    if (stored := sum(member.compress_size for member in members)) > size:
        raise ArchiveError(f"its members claim {stored:,} bytes, the file has {size:,}")
    if (inflated := sum(member.file_size for member in members)) > _MAX_RATIO * size + _FREE:
        raise ArchiveError(f"its {size:,} bytes inflate to {inflated:,}")


def _check_content(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    left = member.file_size
    with archive.open(member) as file:  # raises BadZipFile at the end of a member with a wrong checksum
        while part := file.read(_CHUNK):
            left -= len(part)
    if left:
        raise ArchiveError(f"{member.filename!r:.100} is cut short")
