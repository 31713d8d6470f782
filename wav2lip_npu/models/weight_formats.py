"""Read weights files without running any code in them.

The supported formats are PyTorch's zip and legacy formats, TorchScript archives, and safetensors.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wav2lip_npu.devices.device import HOST
from wav2lip_npu.errors import CheckpointError
from wav2lip_npu.models.archive import ArchiveError, open_archive, read_member, root_of
from wav2lip_npu.models.content import ContentError, check_content, one_line
from wav2lip_npu.models.torchscript import read_torchscript
from wav2lip_npu.models.unpickler import MAX_PICKLE, ForeignCodeError, PickleError, StorageFinder
from wav2lip_npu.storage.regular_files import open_regular

if TYPE_CHECKING:
    from torch import Tensor

MORE = "wav2lip_npu"
"""Key of the entries that only files of wav2lip-npu have. The original's code ignores it."""
_PICKLED_MORE = b"X" + len(MORE).to_bytes(4, "little") + MORE.encode()
_OWN_NAME = re.compile(r"(disc_)?checkpoint_step\d+\.pth")
_HEAD = 1 << 20
"""Bytes at the beginning of a file in which the names of a checkpoint are searched."""
_LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_OTHER_FORMATS = (
    (rb"$", "is empty. Download it again."),
    (
        rb"version https://git-lfs",
        "is a Git LFS pointer, not the weights. Run 'git lfs pull' in its repository.",
    ),
    (
        rb"(\xef\xbb\xbf)?\s*<([!?]|html|head|body)",
        "is an HTML or XML page: a web page was saved instead of the weights. "
        "Open the link in a browser and save the file itself.",
    ),
    (
        rb"....ftyp|RIFF|\x1aE\xdf\xa3|ID3|OggS|fLaC|\x89PNG|\xff\xd8\xff",
        "is a video, audio or image file, not weights. Pass a .pth, .pt or .safetensors file.",
    ),
    (
        rb"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|Rar!|.{257}ustar",
        "is a compressed archive. Unpack it and pass the .pth inside.",
    ),
    (
        rb"\x80[\x00-\x05]",
        "is a Python pickle, not PyTorch weights, and was not opened: a pickle can run code. "
        "Pass a file of tensors written by torch.save.",
    ),
)
"""Patterns of the first bytes of common files that are not weights, and their error messages."""


def read(path: str | os.PathLike[str]) -> dict[Any, Any]:
    """Return the dict in a weights file. Raises `CheckpointError`, with the actual format of other files."""
    source = Path(path)
    try:
        with open_regular(source) as file:
            head = file.read(_HEAD)
    except OSError as error:
        why = error.strerror
        raise CheckpointError(f"cannot read weights {source}: {why}. Check its path.") from None
    reader = _reader(source, head)
    try:
        content = reader(source)
        check_content(content)
    except CheckpointError:
        raise
    except ForeignCodeError as error:
        raise CheckpointError(
            f"{source} contains code ({one_line(str(error))}) and was not opened. "
            "Pass a file that contains only tensors and numbers."
        ) from None
    except Exception as error:  # of any type: the parsers raise many for a damaged file
        raise _damaged(source, head, error) from None
    if not isinstance(content, dict):
        what = type(content).__name__
        raise CheckpointError(
            f"{source} contains a {what}, not a dict of weights. Pass a file with a state dict."
        )
    return content


def _reader(source: Path, head: bytes) -> Callable[[Path], Any]:
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        return _read_zip
    if head[4:9] == b"\0\0\0\0{":
        return _read_safetensors
    legacy = head[:1] == b"\x80" and head[2:15] == _LEGACY_MAGIC[: len(head) - 2]
    if legacy and not tarfile.is_tarfile(source):  # PyTorch 2.5 runs code in tar files: CVE-2025-32434
        return _read_legacy
    if not head.strip(b"\0") and _OWN_NAME.fullmatch(source.name):  # after a power failure
        raise _damaged(source, head, EOFError())
    for start, what in _OTHER_FORMATS:
        if re.match(start, head, re.DOTALL | re.IGNORECASE):
            raise CheckpointError(f"{source} {what}")
    raise CheckpointError(
        f"{source} is not a weights file (it starts with {head[:8]!r}). "
        "Pass a .pth, .pt or .safetensors file of a Wav2Lip network."
    )


def _damaged(source: Path, head: bytes, error: Exception) -> CheckpointError:
    is_own = _PICKLED_MORE in head or _OWN_NAME.fullmatch(source.name)
    advice = "Pass an earlier checkpoint." if is_own else "Download it again."
    if isinstance(error, EOFError) or re.search(
        "not a zip file|unexpected EOF|incomplete|invalid header length", str(error)
    ):
        size = f"{source.stat().st_size:,}"
        how = f"is a training checkpoint cut short at {size}" if is_own else f"is truncated at {size}"
        return CheckpointError(f"{source} {how} bytes. {advice}")
    known = isinstance(error, (ArchiveError, PickleError, ContentError, zipfile.BadZipFile))
    why = one_line(str(error)) if known else type(error).__name__
    return CheckpointError(f"{source} is damaged ({why}). {advice}")


def _read_zip(source: Path) -> Any:
    with open_archive(source) as archive:
        root, names = root_of(archive), archive.namelist()
        pickled = f"{root}data.pkl"
        if not root or pickled not in names:
            raise CheckpointError(
                f"{source} is a zip archive without PyTorch weights. Unpack it and pass the .pth inside."
            )
        if f"{root}constants.pkl" in names:
            return read_torchscript(archive)
        finder = StorageFinder(read_member(archive, pickled, MAX_PICKLE))
        finder.load()
        sizes = {member.filename: member.file_size for member in archive.infolist()}
        for storage in finder.storages:
            if sizes.get(f"{root}data/{storage.key}", -1) < storage.size:
                raise PickleError(f"storage {storage.key!r:.40} is smaller than the pickle claims")
        packed = any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist())
    return _load(source, mmap=not packed)  # compressed bytes must not be memory-mapped as weights


def _read_legacy(source: Path) -> Any:
    """Read five pickles (magic number, version, system, content, keys), then the storages, one by one."""
    with open_regular(source) as file:
        size = os.fstat(file.fileno()).st_size
        finder = StorageFinder(file.read(MAX_PICKLE))
    try:
        for _ in range(5):
            finder.load()
    except EOFError:
        if size > MAX_PICKLE:
            raise PickleError(f"its pickle has more than {MAX_PICKLE:,} bytes") from None
        raise
    sizes: dict[str, int] = {}
    for storage in finder.storages:
        sizes[storage.key] = max(sizes.get(storage.key, 0), storage.size)
    if finder.position + sum(sizes.values()) > size:
        raise EOFError("unexpected EOF in its storages")
    return _load(source)


def _load(source: Path, *, mmap: bool = False) -> Any:
    import torch

    with torch.serialization.safe_globals([_rebuild_npu_tensor]):
        return torch.load(source, map_location=HOST, weights_only=True, mmap=mmap)


def _rebuild_npu_tensor(*parts: Any) -> Tensor:
    """Return a tensor saved by torch_npu before 2.1: PyTorch's arguments, then the layout on the NPU."""
    import torch

    rebuild: Callable[..., Tensor] = torch._utils._rebuild_tensor_v2
    return rebuild(*parts[:6])


_rebuild_npu_tensor.__module__ = "torch_npu.utils.storage"  # the name in those files


def _read_safetensors(source: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(source, "pt") as file:
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        metadata = (file.metadata() or {}).get(MORE)
    return weights if metadata is None else {"state_dict": weights, MORE: json.loads(metadata)}
