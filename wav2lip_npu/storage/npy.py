"""Arrays in `.npy` files that are read in part.

What a header says is matched against the few forms that NumPy writes here and never evaluated, and the
file must be as long as it says: a damaged or hostile file raises `ValueError` before any memory is taken.
"""

from __future__ import annotations

import io
import math
import mmap
import os
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LONGEST_HEADER = 1024
_MAPPED_FROM = 1 << 18
"""Elements. To map and unmap a small file takes longer than to read it."""
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(..)\{'descr': '(\|u1|<f4)', 'fortran_order': False,"
    rb" 'shape': \((\d{1,9}(?:, \d{1,9}){1,3})\), \} *\n",
    re.DOTALL,
)


def layout(file: int) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """Type and shape of the array in an open file, and where its data begins. Raises `ValueError`."""
    found = _HEADER.match(os.pread(file, _LONGEST_HEADER, 0))
    if found is None or found.end() != 10 + int.from_bytes(found[1], "little"):
        raise ValueError("no array that can be used")
    dtype, shape = np.dtype(found[2].decode()), tuple(map(int, found[3].split(b", ")))
    expected, size = found.end() + dtype.itemsize * math.prod(shape), os.fstat(file).st_size
    if size != expected or size == found.end():
        raise ValueError(f"{size} bytes, of {expected}")
    return dtype, shape, found.end()


def header(shape: tuple[int, ...]) -> bytes:
    """How a file begins whose data are the bytes of an array of this shape."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.getvalue()


def read(path: str | os.PathLike[str]) -> NDArray[Any]:
    """The whole array; of a large one, what is looked at. Raises `OSError` and `ValueError`."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        dtype, shape, start = layout(file)
        if math.prod(shape) > _MAPPED_FROM:
            content = mmap.mmap(file, 0, access=mmap.ACCESS_READ)
            return np.frombuffer(content, dtype, math.prod(shape), start).reshape(shape)
        array = np.empty(shape, dtype)
        if os.preadv(file, [array.data], start) != array.nbytes:
            raise ValueError("it has become shorter")
        return array
    finally:
        os.close(file)


def start_of(path: str | os.PathLike[str], dtype: Any, shape: tuple[int, ...]) -> int:
    """Where the data of an array begin that must be of this type and shape.

    Raises `OSError` and `ValueError`.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found, sides, start = layout(file)
    finally:
        os.close(file)
    if (found, sides) != (np.dtype(dtype), shape):
        raise ValueError(f"{found} {sides} in place of {np.dtype(dtype)} {shape}")
    return start
