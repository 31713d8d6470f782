"""Paths that are not regular files."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def make_special(path: Path, kind: str) -> None:
    """Create a `folder`, `fifo` or `socket`."""
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        assert kind == "socket"
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
