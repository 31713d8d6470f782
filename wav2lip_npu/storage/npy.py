"""Read parts of arrays in `.npy` files.

The header must match one of the few forms that wav2lip-npu writes; it is never evaluated. The file must have
the size given by the header, so that a damaged or malicious file raises `ValueError` before any memory is
allocated.
"""

from __future__ import annotations

import io
import math
import mmap
import os
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.storage.regular_files import descriptor_of

_MAX_HEADER = 1024
_MAPPED_FROM = 1 << 18
"""Number of elements above which a file is mapped. Mapping a smaller one takes longer than reading it."""
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(..)\{'descr': '(\|u1|<f4)', 'fortran_order': False,"
    rb" 'shape': \((\d{1,9}(?:, \d{1,9}){1,3})\), \} *\n",
    re.DOTALL,
)


def read_header(file: int) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """Return dtype, shape and offset of the data of an open file descriptor. Raises `ValueError`."""
    header = _HEADER.match(os.pread(file, _MAX_HEADER, 0))
    if header is None or header.end() != 10 + int.from_bytes(header[1], "little"):
        raise ValueError("unsupported or damaged header")
    dtype, shape = np.dtype(header[2].decode()), tuple(map(int, header[3].split(b", ")))
    expected, size = header.end() + dtype.itemsize * math.prod(shape), os.fstat(file).st_size
    if size != expected or size == header.end():
        raise ValueError(f"{size} bytes instead of {expected}")
    return dtype, shape, header.end()


def make_header(shape: tuple[int, ...], descr: str = "|u1") -> bytes:
    """Return the header of a file with this shape and element type."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()


def write_columns(
    path: str | os.PathLike[str], shape: tuple[int, int], blocks: Iterable[NDArray[np.float32]]
) -> None:
    """Write a float32 array [rows, columns] from blocks of its columns, one block at a time.

    Raises `OSError`, and `ValueError` if the blocks do not add up to the shape.
    """
    rows, columns = shape
    header = make_header(shape, "<f4")
    first = 0
    with open(path, "wb") as file:
        file.write(header)
        for block in blocks:
            last = first + block.shape[1]
            if len(block) != rows or last > columns:
                raise ValueError(f"a block {block.shape} at column {first} is outside {shape}")
            for number, row in enumerate(block.astype("<f4")):
                file.seek(len(header) + 4 * (number * columns + first))
                file.write(row.tobytes())
            first = last
    if first != columns:
        raise ValueError(f"{first} columns instead of {columns}")


def read(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Return the whole array; a large one is mapped into memory. Raises `OSError` and `ValueError`."""
    file = descriptor_of(path)
    try:
        dtype, shape, start = read_header(file)
        if math.prod(shape) > _MAPPED_FROM:
            content = mmap.mmap(file, 0, access=mmap.ACCESS_READ)
            return np.frombuffer(content, dtype, math.prod(shape), start).reshape(shape)
        array = np.empty(shape, dtype)
        if os.preadv(file, [array.data], start) != array.nbytes:
            raise ValueError("the file was truncated while it was being read")
        return array
    finally:
        os.close(file)


def data_offset(path: str | os.PathLike[str], dtype: Any, shape: tuple[int, ...]) -> int:
    """Return the offset of the data of an array that must have this dtype and shape.

    Raises `OSError` and `ValueError`.
    """
    file = descriptor_of(path)
    try:
        actual_dtype, actual_shape, start = read_header(file)
    finally:
        os.close(file)
    if (actual_dtype, actual_shape) != (np.dtype(dtype), shape):
        raise ValueError(f"{actual_dtype} {actual_shape} instead of {np.dtype(dtype)} {shape}")
    return start
