"""Read the tensors of a TorchScript archive without running its code.

`torch.jit.load` runs code from the archive (`__setstate__`, default arguments), and TorchScript can write
files.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def read_torchscript(archive: zipfile.ZipFile) -> dict[str, Tensor]:
    """Return parameters and buffers by name, like `state_dict()` of the loaded module."""
    pickled = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
    root = pickled.removesuffix("data.pkl")
    return dict(_parameters(_Unpickler(archive, root).load()))


class _Part:
    """Placeholder for any object in the archive, with its attributes."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            vars(self).update(state)


class _Unpickler(pickle.Unpickler):
    """Unpickler that creates tensors, and a `_Part` for every other object."""

    _TYPES = {  # noqa: RUF012
        "FloatStorage": "float32",
        "HalfStorage": "float16",
        "BFloat16Storage": "bfloat16",
        "DoubleStorage": "float64",
        "LongStorage": "int64",
    }

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(archive.read(root + "data.pkl")))
        self._archive = archive
        self._root = root

    def find_class(self, module: str, name: str) -> Any:
        """Return a dtype name for a storage type, a function for tensors, else `_Part`."""
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _strided
        return self._TYPES.get(name, _Part) if module == "torch" else _Part

    def persistent_load(self, storage: Any) -> Tensor:
        """Return a storage as a flat tensor."""
        import torch

        _, dtype, key, *_ = storage
        data = bytearray(self._archive.read(f"{self._root}data/{key}"))
        return torch.frombuffer(data, dtype=getattr(torch, dtype))


def _strided(flat: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return flat.as_strided(size, stride, offset)


def _parameters(part: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    import torch

    for name, value in vars(part).items():
        if isinstance(value, torch.Tensor):
            yield prefix + name, value
        elif isinstance(value, _Part):
            yield from _parameters(value, f"{prefix}{name}.")
