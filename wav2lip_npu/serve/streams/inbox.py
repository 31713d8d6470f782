"""Audio of a live stream that waits for the live process."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any


class Inbox:
    """Audio and marks that wait for the live process. Audio that waits is joined to one chunk.

    Belongs to the stream: what one connection leaves is passed on before the audio of the next one.

    Args:
        limit: Bytes beyond which `put` waits.

    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: deque[bytearray | str] = deque()
        self._size = self._taking = 0
        self._changed = asyncio.Event()

    async def put(self, item: bytes | str) -> None:
        """Append audio, or a mark such as `flush`. Waits while there is too much."""
        if isinstance(item, str):
            if not self._items or self._items[-1] != item:
                self._items.append(item)
        elif item:
            while self._size > self._limit:
                await self._wait()
            if self._items and isinstance(self._items[-1], bytearray):
                self._items[-1] += item
            else:
                self._items.append(bytearray(item))
            self._size += len(item)
        self._notify()

    def clear(self) -> None:
        """Drop what waits."""
        self._items.clear()
        self._size = 0
        self._notify()

    async def run(self, take: Callable[[bytes | str], Awaitable[Any]]) -> None:
        """Pass the items on, one after the other, until it is cancelled."""
        while True:
            while self._items:
                item = self._items.popleft()
                if not isinstance(item, str):
                    self._size -= len(item)
                self._taking += 1
                self._notify()
                try:
                    await take(item if isinstance(item, str) else bytes(item))
                finally:
                    self._taking -= 1
                    self._notify()
            await self._wait()

    async def drained(self) -> None:
        """Wait until all items have been passed on."""
        while self._items or self._taking:
            await self._wait()

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _notify(self) -> None:
        self._changed.set()
