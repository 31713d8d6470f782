"""Connections of clients that send nothing: they are closed, since each of them takes a file descriptor."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

_HEAD_S = 30.0
"""Seconds from the start of a connection, or from its last response, until the next request is there."""
_BODY_S = 60.0
"""Seconds without a byte of a body."""
_LOOK_EVERY_S = 5.0
_MOST = 65_536
"""File descriptors that are enough."""


class PatientProtocol(H11Protocol):
    """HTTP with limits of the time that a client may send nothing. WebSockets have their own."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to watch a connection."""
        super().connection_made(transport)
        self._heard = self.loop.time()
        self._look_later()

    def data_received(self, data: bytes) -> None:
        """Take bytes. Those of a body renew its time, those of a head do not."""
        super().data_received(data)
        if self._is_receiving:
            self._heard = self.loop.time()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        self._heard = self.loop.time()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop to watch the connection."""
        self._look.cancel()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Leave the connection to the protocol of WebSockets."""
        self._look.cancel()
        super().handle_websocket_upgrade(event)

    def shutdown(self) -> None:
        """End the connection. A request that still arrives is not waited for, and its upload is removed."""
        if self._is_receiving:
            self.transport.abort()
        else:
            super().shutdown()

    @property
    def _is_idle(self) -> bool:
        """Whether a request is expected, of which a part may be there."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def _is_receiving(self) -> bool:
        return not self._is_idle and self.cycle.more_body

    def _look_later(self) -> None:
        self._look: Any = self.loop.call_later(_LOOK_EVERY_S, self._look_now)

    def _look_now(self) -> None:
        silent = self.loop.time() - self._heard
        is_stalled = self._is_receiving and not self.flow.read_paused and silent > _BODY_S
        if is_stalled or (self._is_idle and silent > _HEAD_S):
            self.transport.abort()
        else:
            self._look_later()


def allow_many() -> None:
    """Allow this process and its children as many file descriptors as the system permits."""
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if most == resource.RLIM_INFINITY else min(most, _MOST)
    if limit != resource.RLIM_INFINITY and limit < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
