"""Rows of the database as records, and the changes of rows that several methods of the store make."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from time import time
from typing import Any

from wav2lip_npu.serve.records import ConflictError, GoneError, QueueFullError, Status, StoredFile, Video

VIDEO = (
    "SELECT videos.*, CASE WHEN status = 'queued' THEN (SELECT count(*) FROM videos AS earlier "
    "WHERE earlier.status = 'queued' AND earlier.turn <= videos.turn) END AS queue_position FROM videos"
)
"""Query for the rows of `video`, to be followed by WHERE."""
_INTERNAL = ("number", "turn", "deaths", "interruptions")
_JSON = ("options", "dialogue", "error", "report")


def file(row: sqlite3.Row) -> StoredFile:
    """Return the file of a row."""
    values = dict(row)
    del values["used_at"]
    return StoredFile(**{**values, "media": json.loads(values["media"])})


def video(row: sqlite3.Row) -> Video:
    """Return the video of a row of the query `VIDEO`."""
    values = {name: value for name, value in dict(row).items() if name not in _INTERNAL}
    for name in _JSON:
        values[name] = None if values[name] is None else json.loads(values[name])
    return Video(**values)


def to_json(content: Mapping[str, Any] | None) -> str | None:
    """Return JSON text; equal contents give equal texts."""
    return None if content is None else json.dumps(content, sort_keys=True)


def earlier_video(connection: sqlite3.Connection, client: str, key: str, body_hash: str) -> Video | None:
    """Return the video that an earlier request with this key created; None if there was none.

    Raises `ConflictError` if that request had another body, and `GoneError` if its video was deleted.
    """
    row = connection.execute("SELECT * FROM requests WHERE client = ? AND key = ?", (client, key)).fetchone()
    if row is None:
        return None
    if row["body_hash"] != body_hash:
        raise ConflictError(
            f"the Idempotency-Key {key:.80} belongs to another request. Send a new key with a new request."
        )
    created = connection.execute(f"{VIDEO} WHERE id = ?", (row["video_id"],)).fetchone()
    if created is None:
        raise GoneError(
            f"the video {row['video_id']} of the Idempotency-Key {key:.80} was deleted or has expired. "
            "Send a new key to make it again."
        )
    return video(created)


def check_room(
    connection: sqlite3.Connection, client: str, max_queue: int | None, max_jobs: int | None
) -> None:
    """Raise `QueueFullError` if another job would exceed the maximum of all waiting ones or of a client."""
    if max_queue is not None:
        (waiting,) = connection.execute("SELECT count(*) FROM videos WHERE status = 'queued'").fetchone()
        if waiting >= max_queue:
            raise QueueFullError(f"the queue is full ({waiting} jobs). Try again later.")
    if max_jobs is not None:
        (running,) = connection.execute(
            "SELECT count(*) FROM videos WHERE client = ? AND status IN ('queued', 'in_progress')", (client,)
        ).fetchone()
        if running >= max_jobs:
            raise QueueFullError(
                f"{running} jobs of this client have not ended, which is the maximum. Try again when one has."
            )


def end(
    connection: sqlite3.Connection, video_id: str, status: Status, keep: float | None, **values: Any
) -> bool:
    """Set the final status of a job that has not ended, and further columns; return whether it had not."""
    now = int(time())
    expires = None if keep is None else now + max(1, round(keep))
    values |= {"status": status, "stage": "done", "completed_at": now, "expires_at": expires, "fps": None}
    values["seconds_left"] = None
    columns = "".join(f"{name} = ?, " for name in values)
    changed = connection.execute(
        f"UPDATE videos SET {columns} revision = revision + 1 "
        "WHERE id = ? AND status IN ('queued', 'in_progress')",
        (*values.values(), video_id),
    )
    if changed.rowcount:
        add_to_total(connection, status, 1)
    return bool(changed.rowcount)


def add_to_total(connection: sqlite3.Connection, name: str, amount: float) -> None:
    """Increase one of the totals."""
    connection.execute(
        "INSERT INTO totals VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
        (name, amount),
    )


def move_up(connection: sqlite3.Connection) -> None:
    """Note that the positions of waiting jobs have changed."""
    connection.execute("UPDATE videos SET revision = revision + 1 WHERE status = 'queued'")
