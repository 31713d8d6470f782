"""The viewers of live streams by WebRTC, in the live process. Needs the package aiortc."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from wav2lip_npu.live.webrtc import WebRtcPeers
from wav2lip_npu.serve.streams.stream import LiveStream

_FRAMES = 25
"""Frames that wait while the event loop is busy."""


class WebRtcViewers:
    """The viewers of all streams."""

    def __init__(self) -> None:
        self._peers: dict[str, WebRtcPeers] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def answer(self, live: LiveStream, offer: str, ice_servers: Sequence[str]) -> dict[str, str]:
        """Add a viewer, and return its ID and the answer to its offer. Raises `Wav2LipError`."""
        peers = self._peers.get(live.name)
        if peers is None:
            peers = WebRtcPeers(live.face.fps, live.face.size, ice_servers=ice_servers)
            self._peers[live.name] = peers
            task = asyncio.create_task(self._show(live, peers))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        answer = await peers.answer(offer)
        return {"peer": answer.peer, "sdp": answer.sdp}

    async def remove(self, live: LiveStream, peer: str) -> bool:
        """Disconnect a viewer. Return whether there was one of this ID."""
        peers = self._peers.get(live.name)
        if peers is None or peer not in peers:
            return False
        await peers.remove(peer)
        return True

    async def _show(self, live: LiveStream, peers: WebRtcPeers) -> None:
        """Send the frames of a stream to its viewers, until the last one has gone or the stream ends."""
        viewer = live.watch(_FRAMES)
        try:
            async for frame in viewer:
                if not len(peers):
                    break
                peers.show(frame)
        finally:
            del self._peers[live.name]
            viewer.close()
            await peers.close()
