"""Messages between the HTTP process and the live process: a JSON object, and bytes of audio or images."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from wav2lip_npu import errors
from wav2lip_npu.errors import Wav2LipError

_SIZES = struct.Struct("!II")
_LIMIT = 1 << 20
"""Bytes that are read ahead."""


@dataclass(frozen=True)
class Message:
    """A message."""

    values: Mapping[str, Any]
    data: bytes = b""


class Wire:
    """One end of the connection, in the event loop that uses it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, pipe: Connection) -> Wire:
        """Return the end of a pipe, which is closed and replaced by it."""
        connected = socket.socket(fileno=os.dup(pipe.fileno()))
        pipe.close()
        return cls(*await asyncio.open_connection(sock=connected, limit=_LIMIT))

    @property
    def waiting(self) -> int:
        """Bytes that the other process has not taken yet."""
        return int(self._writer.transport.get_write_buffer_size())

    async def read(self) -> Message | None:
        """Return the next message; None after the other process has ended."""
        try:
            head, tail = _SIZES.unpack(await self._reader.readexactly(_SIZES.size))
            values = json.loads(await self._reader.readexactly(head))
            return Message(values, await self._reader.readexactly(tail))
        except (asyncio.IncompleteReadError, OSError):
            return None

    def send(self, values: Mapping[str, Any], data: bytes = b"") -> None:
        """Send a message. Never waits: see `waiting`."""
        head = json.dumps(values).encode()
        if not self._writer.is_closing():
            self._writer.write(b"".join((_SIZES.pack(len(head), len(data)), head, data)))

    def close(self) -> None:
        """Close this end."""
        self._writer.close()


def error_values(error: Wav2LipError) -> dict[str, str]:
    """Return an error as JSON."""
    return {"kind": type(error).__name__, "text": str(error)}


def error_of(values: Mapping[str, str]) -> Wav2LipError:
    """Return the error of `error_values`."""
    kind = getattr(errors, values["kind"], Wav2LipError)
    error: Wav2LipError = kind(values["text"])
    return error
