"""Clients of WebSockets: blocking, with the messages that tests look at."""

from __future__ import annotations

import json
from typing import Any

from websockets.sync.client import ClientConnection, connect

from support.service import RunningService


def socket(live: RunningService, path: str, **options: Any) -> ClientConnection:
    """Connect to a path of a service."""
    return connect(live.url.replace("http", "ws", 1) + path, max_size=None, **options)


def message(connection: ClientConnection, kind: str | None = None, timeout: float = 30) -> dict[str, Any]:
    """Return the next JSON message, or the next one of a type."""
    while True:
        text = connection.recv(timeout=timeout)
        if isinstance(text, str):
            found: dict[str, Any] = json.loads(text)
            if kind in (None, found["type"]):
                return found
