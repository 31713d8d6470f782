"""Read weights files without running any code in them.

The supported formats are PyTorch's zip and legacy formats, TorchScript archives, and safetensors.
"""

from __future__ import annotations

import json
import pickle
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wav2lip_npu.device import HOST
from wav2lip_npu.errors import CheckpointError
from wav2lip_npu.models.torchscript import read_torchscript

if TYPE_CHECKING:
    from torch import Tensor

MORE = "wav2lip_npu"
"""Key of the entries that only files of wav2lip-npu have. The original's code ignores it."""
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


def tensors_of(content: dict[Any, Any], source: Path) -> dict[str, Tensor]:
    """Return the tensors of a dict. Raises `CheckpointError` if there are none."""
    import torch

    tensors = {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        keys = ", ".join(sorted(map(str, content))[:5]) or "none"
        raise CheckpointError(f"{source} has no weights (keys: {keys}). Pass a file with a state dict.")
    return tensors


def read(source: Path) -> dict[Any, Any]:
    """Return the dict in a weights file. Raises `CheckpointError`, with the actual format of other files."""
    try:
        with source.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        why = error.strerror
        raise CheckpointError(f"cannot read weights {source}: {why}. Check its path.") from None
    read = _reader(source, head)
    try:
        content = read(source)
    except CheckpointError:
        raise
    except Exception as error:  # of any type: the parsers raise many for a damaged file
        raise _damaged(source, error) from None
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
        return _read_torch
    for start, what in _OTHER_FORMATS:
        if re.match(start, head, re.DOTALL | re.IGNORECASE):
            raise CheckpointError(f"{source} {what}")
    raise CheckpointError(
        f"{source} is not a weights file (it starts with {head[:8]!r}). "
        "Pass a .pth, .pt or .safetensors file of a Wav2Lip network."
    )


def _damaged(source: Path, error: Exception) -> CheckpointError:
    if isinstance(error, EOFError) or re.search(
        "not a zip file|unexpected EOF|incomplete|invalid header length", str(error)
    ):
        size = f"{source.stat().st_size:,}"
        return CheckpointError(f"{source} is truncated at {size} bytes. Download it again.")
    return CheckpointError(f"{source} is damaged ({type(error).__name__}). Download it again.")


def _read_zip(source: Path) -> Any:
    with zipfile.ZipFile(source) as archive:
        names = archive.namelist()
        if not any(name.endswith("/data.pkl") for name in names):
            raise CheckpointError(
                f"{source} is a zip archive without PyTorch weights. Unpack it and pass the .pth inside."
            )
        if any(name.endswith("/constants.pkl") for name in names):
            return read_torchscript(archive)
        packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
    return _read_torch(source, mmap=not packed)  # memory-mapped compressed bytes would be read as weights


def _read_torch(source: Path, *, mmap: bool = False) -> Any:
    import torch

    try:
        with torch.serialization.safe_globals([_rebuild_npu_tensor]):
            return torch.load(source, map_location=HOST, weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code is None:
            raise
        raise CheckpointError(
            f"{source} contains code ({code[1]}) and was not opened. Pass a file of only tensors and numbers."
        ) from None


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
