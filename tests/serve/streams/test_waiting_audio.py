"""Audio that waits on its way into a live stream keeps its order, and is dropped by an interruption."""

from __future__ import annotations

import asyncio
from typing import Any

from wav2lip_npu.serve.streams.inbox import Inbox
from wav2lip_npu.serve.streams.stream import LiveStream


def test_clear_drops_chunks_that_wait_in_the_live_process():
    class Face:
        def __init__(self) -> None:
            self.room, self.heard = asyncio.Event(), b""

        async def push_audio_async(self, pcm: bytes, rate: int) -> None:
            await self.room.wait()
            self.heard += pcm

        def clear(self) -> None:
            self.room.set()

    async def interrupted() -> bytes:
        face: Any = Face()
        live = LiveStream("stream", face, 8000)
        pushing = [asyncio.ensure_future(live.push(bytes(40_000))), asyncio.ensure_future(live.push(b"aa"))]
        await asyncio.sleep(0)
        live.clear()
        await asyncio.gather(*pushing, live.push(b"bb"))
        return bytes(face.heard)

    assert asyncio.run(interrupted()) == bytes(4000) + b"bb"  # the face itself drops the first piece


def test_what_waits_is_passed_on_in_order_by_the_next_connection():
    async def passed() -> list[bytes | str]:
        inbox = Inbox(1 << 20)
        taken: list[bytes | str] = []

        async def take(item: bytes | str) -> None:
            taken.append(item)
            await asyncio.sleep(0)

        for item in (b"aa", b"bb", "flush", b"", "flush", b"cc"):
            await inbox.put(item)
        first = asyncio.ensure_future(inbox.run(take))
        await asyncio.sleep(0)
        second = asyncio.ensure_future(inbox.run(take))
        first.cancel()
        await inbox.drained()
        second.cancel()
        return taken

    assert asyncio.run(passed()) == [b"aabb", "flush", b"cc"]
