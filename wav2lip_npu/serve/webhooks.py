"""Calls to clients at the end of their jobs: signed, repeated after a failure, and kept in the database."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from time import time
from typing import Any

from wav2lip_npu.serve.objects import video_json
from wav2lip_npu.serve.outgoing import Connection, allowed_target
from wav2lip_npu.serve.records import FINAL, Video
from wav2lip_npu.serve.store import Store

log = logging.getLogger(__name__)

MAX_TRIES = 5
_FIRST_DELAY_S, _FACTOR = 10, 4
"""Delays between the tries: 10 s, 40 s, 160 s and 640 s."""
_TIMEOUT_S = 15.0
_AT_ONCE = 16


class Webhooks:
    """The calls that are to be made.

    Args:
        store: The store of the service.
        hosts: Hosts that may be called.
        secret: Secret of the signatures.

    """

    def __init__(self, store: Store, hosts: Sequence[str], secret: bytes) -> None:
        self._store, self._hosts, self._secret = store, hosts, secret

    @property
    def is_on(self) -> bool:
        """Whether there are hosts that may be called."""
        return bool(self._hosts)

    def check(self, url: str) -> None:
        """Raise `UsageError` if an address may not be called."""
        allowed_target(url, self._hosts, "webhook_url", "--webhook_hosts")

    def deliver(self, now: float) -> int:
        """Make the calls that are due, and return their number. Blocks."""
        marks = ", ".join("?" * len(FINAL))
        due = self._store.database.connection.execute(
            "SELECT webhooks.* FROM webhooks LEFT JOIN videos ON videos.id = video_id "
            f"WHERE due <= ? AND (status IS NULL OR status IN ({marks})) LIMIT {_AT_ONCE}",
            (now, *FINAL),
        ).fetchall()
        videos = [self._store.video(row["video_id"]) for row in due]
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            errors = list(threads.map(self._call, [row["url"] for row in due], videos))
        for row, error in zip(due, errors, strict=True):
            self._note(row, error, now)
        return len(due)

    def _note(self, row: Any, error: str | None, now: float) -> None:
        """Remove a call that succeeded or failed too often, else set the time of its next try."""
        tries = row["tries"] + 1
        with self._store.database.transaction() as connection:
            if error is None or tries >= MAX_TRIES:
                connection.execute("DELETE FROM webhooks WHERE video_id = ?", (row["video_id"],))
            else:
                due = now + _FIRST_DELAY_S * _FACTOR ** (tries - 1)
                connection.execute(
                    "UPDATE webhooks SET tries = ?, due = ? WHERE video_id = ?", (tries, due, row["video_id"])
                )
        if error is not None:
            log.warning("webhook of %s, try %d of %d: %s", row["video_id"], tries, MAX_TRIES, error)

    def _call(self, url: str, video: Video | None) -> str | None:
        """Call an address unless the job was deleted; return the reason if that failed."""
        if video is None:
            return None
        target = allowed_target(url, self._hosts, "webhook_url", "--webhook_hosts")
        event = {
            "id": f"evt_{video.id.removeprefix('video_')}",
            "object": "event",
            "type": f"video.{video.status}",
            "created_at": video.completed_at,
            "data": video_json(video),
        }
        body = json.dumps(event).encode()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "wav2lip-npu",
            "X-Webhook-Signature": signature(self._secret, body, int(time())),
        }
        try:
            with closing(Connection(target, _TIMEOUT_S)) as connection:
                connection.request("POST", target.path, body, headers)
                status = connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            return str(error)
        return None if 200 <= status < 300 else f"HTTP status {status}"


def signature(secret: bytes, body: bytes, seconds: int) -> str:
    """Return the header `X-Webhook-Signature`: the time, and the HMAC-SHA256 of `TIME.BODY`."""
    digest = hmac.new(secret, f"{seconds}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={seconds},v1={digest}"
