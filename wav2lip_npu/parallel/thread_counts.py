"""Settings of the whole process for its threads: thread counts of libraries, pools of memory."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from wav2lip_npu.devices import device as devices

if TYPE_CHECKING:
    import torch

_M_ARENA_MAX = -8  # of malloc.h


class SharedThreadCount:
    """Thread count of a library for this whole process, which concurrent dubs change at the same time.

    `read` and `write` are the functions of the library, such as `cv2.getNumThreads` and `cv2.setNumThreads`.
    """

    def __init__(self, read: Callable[[], int], write: Callable[[int], object]) -> None:
        self._read, self._write = read, write
        self._lock = threading.Lock()
        self._users = 0
        self._before = 0

    @contextlib.contextmanager
    def borrowed(self, count: int | None = None) -> Iterator[int]:
        """Set the count, if one is given, and yield the original one.

        The first of several concurrent callers saves the original count, the last one restores it.
        """
        with self._lock:
            if not self._users:
                self._before = self._read()
            before = self._before
            self._users += 1
            if count is not None:
                self._write(count)
        try:
            yield before
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._write(before)


@functools.cache
def opencv_threads() -> SharedThreadCount:
    """Return the thread count of OpenCV."""
    import cv2

    return SharedThreadCount(cv2.getNumThreads, cv2.setNumThreads)


@functools.cache
def _torch_threads() -> SharedThreadCount:
    import torch

    return SharedThreadCount(torch.get_num_threads, torch.set_num_threads)


@contextlib.contextmanager
def one_core_each(device: torch.device) -> Iterator[Callable[[], None]]:
    """Give each lane one core. Yields a function that the thread of each lane calls first.

    PyTorch has a thread count per thread and a default for new threads; that of the calling thread is
    restored on exit, and the default when no other thread is in such a block.
    """
    import torch

    def prepare() -> None:
        devices.activate(device)
        torch.set_num_threads(1)

    with _torch_threads().borrowed() as before:
        try:
            yield prepare
        finally:
            torch.set_num_threads(before)


def limit_malloc_arenas() -> None:
    """Let all threads that start from now on allocate from the same arena of glibc, or from two.

    By default glibc gives every new thread its own arena. A dub starts a dozen threads, and the memory that
    they free stays in their arenas: 60 MB at 1080x1920, and a fifth of the memory of a long batch.
    """
    with contextlib.suppress(OSError, AttributeError):  # the C library is not glibc
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, min(2, max(1, devices.cpu_count() // 2)))
