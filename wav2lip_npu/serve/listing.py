"""Lists of videos, and what has changed of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Literal

from wav2lip_npu.serve import rows
from wav2lip_npu.serve.records import Event, NotFoundError, Status, Video
from wav2lip_npu.serve.store import Store


def videos(
    store: Store,
    *,
    limit: int = 20,
    after: str | None = None,
    order: Literal["asc", "desc"] = "desc",
    status: Status | None = None,
    client: str | None = None,
) -> list[Video]:
    """Return videos in the order of their creation, newest first; with `after`, those after that video.

    Raises:
        NotFoundError: There is no video `after`.

    """
    conditions, values = ["TRUE"], list[Any]()
    if after is not None:
        row = store.database.connection.execute("SELECT number FROM videos WHERE id = ?", (after,)).fetchone()
        if row is None:
            raise NotFoundError(f"there is no video {after}. Pass the ID of a listed one as after.")
        conditions.append("number < ?" if order == "desc" else "number > ?")
        values.append(row["number"])
    for name, value in (("status", status), ("client", client)):
        if value is not None:
            conditions.append(f"{name} = ?")
            values.append(value)
    direction = "DESC" if order == "desc" else "ASC"
    found = store.database.connection.execute(
        f"{rows.VIDEO} WHERE {' AND '.join(conditions)} ORDER BY number {direction} LIMIT ?",
        (*values, limit),
    )
    return [rows.video(row) for row in found]


def events(store: Store, video_id: str, after: int = 0) -> list[Event]:
    """Return what has changed since event `after`: at most one event, the newest state of the job.

    Raises:
        NotFoundError: The video does not exist, or was deleted.

    """
    video = store.video(video_id)
    if video is None:
        raise NotFoundError(f"there is no video {video_id}.")
    kind: Literal["done", "progress"] = "done" if video.is_final else "progress"
    return [Event(video.revision, kind, video)] if video.revision > after else []


def revisions(store: Store, ids: Iterable[str]) -> dict[str, int]:
    """Return the number of the newest event of each video that exists."""
    found = store.database.connection.execute(
        "SELECT id, revision FROM videos WHERE id IN (SELECT value FROM json_each(?))",
        (json.dumps(list(ids)),),
    )
    return {row["id"]: row["revision"] for row in found}
