"""Server-sent events of jobs."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from time import monotonic
from typing import Any

from anyio import to_thread

from wav2lip_npu.serve.objects import progress_json, video_json
from wav2lip_npu.serve.records import Event, NotFoundError
from wav2lip_npu.serve.store import Store

_POLL_S = 0.5
_COMMENT_S = 15.0
"""Seconds between comments, which keep proxies from closing a quiet connection."""


class EventHub:
    """Reads the events of all watched videos from the store, once for all clients, while there are any."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._watchers: Counter[str] = Counter()
        self._news: dict[str, Event | None] = {}
        """Newest event of each watched video; None if the video was deleted."""
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False

    @property
    def streams(self) -> int:
        """Number of open streams."""
        return self._watchers.total()

    async def stream(self, video_id: str, after: int) -> AsyncIterator[bytes]:
        """Yield the events of a video after event `after`, until it ends or is deleted, and comments."""
        self._watchers[video_id] += 1
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._poll())
        try:
            yield b"retry: 2000\n\n"
            for event in await to_thread.run_sync(self._events, video_id, after) or ():
                yield _encoded(event)
                after = event.seq
                if event.kind == "done":
                    return
            spoke = monotonic()
            while not self._is_closed:
                await self._wait(spoke + _COMMENT_S - monotonic())
                event_or_none = self._news.get(video_id, ...)
                if event_or_none is None:
                    return
                if isinstance(event_or_none, Event) and event_or_none.seq > after:
                    after = event_or_none.seq
                    yield _encoded(event_or_none)
                    spoke = monotonic()
                    if event_or_none.kind == "done":
                        return
                elif monotonic() - spoke >= _COMMENT_S:
                    yield b": still here\n\n"
                    spoke = monotonic()
        finally:
            self._watchers[video_id] -= 1
            if self._watchers[video_id] <= 0:
                del self._watchers[video_id]
                self._news.pop(video_id, None)

    async def close(self) -> None:
        """End all streams."""
        self._is_closed = True
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        async with self._changed:
            self._changed.notify_all()

    async def _wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
            async with self._changed:
                await asyncio.wait_for(self._changed.wait(), max(0.01, seconds))

    async def _poll(self) -> None:
        while self._watchers:
            await asyncio.sleep(_POLL_S)
            known = {video_id: self._news.get(video_id) for video_id in self._watchers}
            news = await to_thread.run_sync(self._read, known)
            self._news.update({key: value for key, value in news.items() if key in self._watchers})
            if news:
                async with self._changed:
                    self._changed.notify_all()

    def _read(self, known: dict[str, Event | None]) -> dict[str, Event | None]:
        """Return what is new of some videos."""
        news: dict[str, Event | None] = {}
        for video_id, last in known.items():
            events = self._events(video_id, 0 if last is None else last.seq)
            if events is None:
                news[video_id] = None
            elif events:
                news[video_id] = events[-1]
        return news

    def _events(self, video_id: str, after: int) -> list[Event] | None:
        try:
            return self._store.events(video_id, after)
        except NotFoundError:
            return None


def _encoded(event: Event) -> bytes:
    data: dict[str, Any] = video_json(event.video) if event.kind == "done" else progress_json(event.video)
    return f"event: {event.kind}\nid: {event.seq}\ndata: {json.dumps(data)}\n\n".encode()
