"""Clients of WebSockets: blocking, with the messages that tests look at."""

from __future__ import annotations

import json
from pathlib import Path
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


def opened(live: RunningService, face: Path, **values: Any) -> dict[str, Any]:
    """Open a stream of a face."""
    answer = live.client.post("/v1/streams", json={"face_id": live.upload(face), **values})
    assert answer.status_code == 200, answer.text
    stream: dict[str, Any] = answer.json()
    return stream


def path_of(stream: dict[str, Any], name: str) -> str:
    """Return the path of a WebSocket of a stream."""
    return f"/v1/streams/{stream['id']}/{name}"
