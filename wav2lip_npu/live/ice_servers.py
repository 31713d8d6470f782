"""Addresses of STUN and TURN servers, which help WebRTC through routers."""

from __future__ import annotations

import re
from dataclasses import dataclass

from wav2lip_npu.errors import UsageError

_FORM = re.compile(
    r"(?P<kind>stun|turns?):(?:(?P<user>[^:@\s]+):(?P<password>[^@\s]+)@)?"
    r"(?P<rest>(?:[\w.-]+|\[[\da-fA-F:]+\])(?::\d{1,5})?(?:\?transport=(?:udp|tcp))?)",
    re.ASCII,
)


@dataclass(frozen=True)
class IceServer:
    """A STUN or TURN server."""

    url: str
    """Such as `turn:host:3478?transport=tcp`."""
    user: str | None
    password: str | None

    @classmethod
    def of(cls, text: str) -> IceServer:
        """Return the server of `stun:HOST:PORT` or `turn:USER:PASSWORD@HOST:PORT`. Raises `UsageError`."""
        found = _FORM.fullmatch(text)
        if found is None or (found["kind"] == "stun") != (found["user"] is None):
            raise UsageError(
                f"{text.rpartition('@')[2]!r:.80} is no STUN or TURN server. Pass stun:HOST:PORT or "
                "turn:USER:PASSWORD@HOST:PORT."
            )
        return cls(f"{found['kind']}:{found['rest']}", found["user"], found["password"])
