"""The state of the service: its jobs by status, what was ever done, and the workers of its engine."""

from __future__ import annotations

from time import time
from typing import get_args

from wav2lip_npu.serve.records import Status, Worker
from wav2lip_npu.serve.store import Store


def counts(store: Store) -> dict[Status, int]:
    """Return the number of videos of each status."""
    counted = store.database.connection.execute("SELECT status, count(*) FROM videos GROUP BY status")
    return dict.fromkeys(get_args(Status), 0) | dict(map(tuple, counted))


def totals(store: Store) -> dict[str, float]:
    """Return what was ever done: jobs `completed`, `failed` and `cancelled`, `frames` and `seconds`."""
    return dict(tuple(row) for row in store.database.connection.execute("SELECT name, value FROM totals"))


def oldest_queued(store: Store) -> float | None:
    """Return the age in seconds of the job that has waited longest; None if none waits."""
    (created,) = store.database.connection.execute(
        "SELECT min(created_at) FROM videos WHERE status = 'queued'"
    ).fetchone()
    return None if created is None else max(0.0, time() - created)


def workers(store: Store) -> list[Worker]:
    """Return the workers of the running engine, by name; none if it does not run."""
    listed = store.database.connection.execute("SELECT * FROM workers ORDER BY name")
    return [Worker(**dict(row)) for row in listed]
