"""Server-sent events of jobs."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from anyio import to_thread

from wav2lip_npu.serve import listing
from wav2lip_npu.serve.objects import deleted_json, progress_json, video_json
from wav2lip_npu.serve.records import Event, NotFoundError
from wav2lip_npu.serve.store import Store

_POLL_S = 0.5
_COMMENT_S = 15.0
"""Seconds between comments, which keep proxies from closing a quiet connection."""
_AT_ONCE, _BREAK_S = 10, 0.01
"""Streams that are woken together, and the pause after them, in which other requests are answered."""


class EventHub:
    """Reads the events of all watched videos from the store, once for all clients, while there are any."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._streams: dict[str, list[asyncio.Event]] = {}
        """For each watched video, what wakes each of its streams."""
        self._news: dict[str, Event | None] = {}
        """Newest event of each watched video; None if the video was deleted."""
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False

    @property
    def streams(self) -> int:
        """Number of open streams."""
        return sum(map(len, self._streams.values()))

    async def stream(self, video_id: str, after: int) -> AsyncIterator[bytes]:
        """Yield the events of a video after event `after`, and comments; the last is `done` or `deleted`."""
        changed = asyncio.Event()
        self._streams.setdefault(video_id, []).append(changed)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._poll())
        try:
            yield b"retry: 2000\n\n"
            event = await to_thread.run_sync(self._newest, video_id)
            while not self._is_closed:
                if event is None:
                    yield _deleted(video_id, after + 1)
                    return
                if event.seq > after:
                    after = event.seq
                    yield _encoded(event)
                if event.kind == "done":
                    return
                if not await _wait(changed, _COMMENT_S):
                    yield b": still here\n\n"
                changed.clear()
                event = self._news.get(video_id, event)
        finally:
            self._streams[video_id].remove(changed)
            if not self._streams[video_id]:
                del self._streams[video_id]
                self._news.pop(video_id, None)

    async def close(self) -> None:
        """End all streams."""
        self._is_closed = True
        if self._task is not None:
            self._task.cancel()
        for changed in [changed for waiting in self._streams.values() for changed in waiting]:
            changed.set()

    async def _poll(self) -> None:
        while self._streams:
            await asyncio.sleep(_POLL_S)
            known = {video_id: self._known(video_id) for video_id in self._streams}
            news = await to_thread.run_sync(self._read, known)
            self._news |= {video_id: event for video_id, event in news.items() if video_id in self._streams}
            waiting = [changed for video_id in news for changed in self._streams.get(video_id, ())]
            for first in range(0, len(waiting), _AT_ONCE):
                for changed in waiting[first : first + _AT_ONCE]:
                    changed.set()
                await asyncio.sleep(_BREAK_S)

    def _known(self, video_id: str) -> int | None:
        """Return the number of the newest event that has been read; 0 if none has, None after a deletion."""
        if video_id not in self._news:
            return 0
        event = self._news[video_id]
        return None if event is None else event.seq

    def _read(self, known: dict[str, int | None]) -> dict[str, Event | None]:
        """Return what is new of some videos."""
        revisions = listing.revisions(self._store, known)
        changed = [video_id for video_id, number in known.items() if revisions.get(video_id) != number]
        return {video_id: self._newest(video_id) for video_id in changed}

    def _newest(self, video_id: str) -> Event | None:
        """Return the newest event of a video; None if it was deleted."""
        try:
            return listing.events(self._store, video_id)[-1]
        except NotFoundError:
            return None


async def _wait(changed: asyncio.Event, seconds: float) -> bool:
    """Wait for a change; return whether there was one in time."""
    with contextlib.suppress(asyncio.TimeoutError):
        return await asyncio.wait_for(changed.wait(), seconds)
    return False


def _encoded(event: Event) -> bytes:
    data = video_json(event.video) if event.kind == "done" else progress_json(event.video)
    return _text(event.kind, event.seq, data)


def _deleted(video_id: str, seq: int) -> bytes:
    return _text("deleted", seq, deleted_json("video", video_id))


def _text(kind: str, seq: int, data: dict[str, Any]) -> bytes:
    return f"event: {kind}\nid: {seq}\ndata: {json.dumps(data)}\n\n".encode()
