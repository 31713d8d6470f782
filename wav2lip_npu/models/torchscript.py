"""Read the tensors of a TorchScript archive without running its code.

`torch.jit.load` runs code from the archive (`__setstate__`, default arguments), and TorchScript can write
files.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from wav2lip_npu.models.archive import read_member, root_of
from wav2lip_npu.models.unpickler import MAX_PICKLE, Global, PickleError, Stub, Unpickler

if TYPE_CHECKING:
    from torch import Tensor

_MAX_PARTS = 100_000
"""Limit of modules and tensors of a network, counted at each occurrence."""


def read_torchscript(archive: zipfile.ZipFile) -> dict[str, Tensor]:
    """Return parameters and buffers by name, like `state_dict()` of the loaded module."""
    module = _Unpickler(archive, root_of(archive)).load()
    tensors = {}
    for number, (name, tensor) in enumerate(_parameters(module)):
        if number > _MAX_PARTS:
            raise PickleError(f"its pickle has more than {_MAX_PARTS:,} modules and tensors")
        if tensor is not None:
            tensors[name] = tensor
    return tensors


class _Unpickler(Unpickler):
    """Unpickler that creates tensors, and a `Stub` for every other object."""

    _TYPES = {  # noqa: RUF012
        "torch.FloatStorage": "float32",
        "torch.HalfStorage": "float16",
        "torch.BFloat16Storage": "bfloat16",
        "torch.DoubleStorage": "float64",
        "torch.LongStorage": "int64",
    }

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(read_member(archive, f"{root}data.pkl", MAX_PICKLE))
        self._archive = archive
        self._root = root
        self._storages: dict[tuple[str, str], Tensor] = {}

    def call(self, function: Global, arguments: tuple[Any, ...]) -> Any:
        """Return a tensor, or a stub of any other object."""
        if function.path == "torch._utils._rebuild_tensor_v2":
            return _strided(*arguments)
        return super().call(function, arguments)

    def persistent_load(self, pid: Any) -> Tensor:
        """Return a storage as a flat tensor."""
        import torch

        _, type_, key, *_ = pid
        dtype = self._TYPES[type_.path]
        if (dtype, key) not in self._storages:
            name = f"{self._root}data/{key}"
            data = bytearray(read_member(self._archive, name, self._archive.getinfo(name).file_size))
            typed = getattr(torch, dtype)
            flat = torch.frombuffer(data, dtype=typed) if data else torch.empty(0, dtype=typed)
            self._storages[dtype, key] = flat
        return self._storages[dtype, key]


def _strided(flat: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return flat.as_strided(size, stride, offset)


def _parameters(part: Any, prefix: str = "") -> Iterator[tuple[str, Tensor | None]]:
    """Yield names and tensors of a module, and `None` for each module in it."""
    import torch

    for name, value in vars(part).items():
        if isinstance(value, torch.Tensor):
            yield prefix + name, value
        elif isinstance(value, Stub):
            yield prefix + name, None
            yield from _parameters(value, f"{prefix}{name}.")
