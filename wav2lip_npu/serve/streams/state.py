"""A live stream as the HTTP process knows it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from time import monotonic, time
from typing import Any

from wav2lip_npu.serve.streams.inbox import Inbox
from wav2lip_npu.serve.streams.objects import StreamRequest

_BUFFER_S = 30.0
"""Seconds of audio that wait here, so that an interruption behind them is read."""
_NO_FIGURES = {"frames": 0, "late": 0, "silent": 0, "cleared": 0, "viewers": 0, "delay_ms": None}


@dataclass(eq=False)
class Stream:
    """A live stream."""

    id: str
    """`stream_` and 24 hex digits."""
    client: str
    request: StreamRequest
    fps: float
    is_paced: bool = True
    """Whether frames come by themselves; if not, they answer the audio of one connection."""
    width: int = 0
    height: int = 0
    created_at: int = field(default_factory=lambda: int(time()))
    ended_at: int | None = None
    status: str = "open"
    error: dict[str, str] | None = None
    figures: dict[str, Any] = field(default_factory=lambda: dict(_NO_FIGURES))
    viewers: set[Images] = field(default_factory=set)
    """Connections that get images."""
    audio: asyncio.Event | None = None
    """Set when another connection replaces the one that sends audio; None without one."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    started: float = field(default_factory=monotonic)
    used: float = field(default_factory=monotonic)
    """Last time at which it had an audio connection or a viewer."""
    heard: float = field(default_factory=monotonic)
    """Time of the last audio."""
    inbox: Inbox = field(init=False)

    def __post_init__(self) -> None:
        self.inbox = Inbox(int(2 * _BUFFER_S * self.request.sample_rate))

    @property
    def is_open(self) -> bool:
        """Whether it has not ended."""
        return self.status == "open"


class Images:
    """The latest image of a stream for one connection. A slow one misses images."""

    def __init__(self) -> None:
        self._latest: bytes | None = None
        self._changed = asyncio.Event()

    def offer(self, message: bytes | None) -> None:
        """Replace the image; None is the end."""
        self._latest = message
        self._changed.set()

    async def next(self) -> bytes | None:
        """Wait for a new image and return its message; None at the end."""
        await self._changed.wait()
        self._changed.clear()
        return self._latest
