"""The queue of the service: what the engine does with the videos of the store."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Mapping, Sequence
from time import time
from typing import Any

from wav2lip_npu.serve import rows
from wav2lip_npu.serve.database import NEXT_TURN
from wav2lip_npu.serve.records import Stage, Video, Worker
from wav2lip_npu.serve.store import Store

MAX_DEATHS = 4
"""Worker processes that may die over a job: more than in a batch, which somebody starts again."""
MAX_INTERRUPTIONS = 10
"""Engines that may die over a job. Each of them ran other jobs too, so a job is rarely the cause."""
_ALONE_FROM = 3
"""Interruptions after which a job shares its pass with no other."""
_KEEP_REQUESTS_S = 24 * 3600
"""How long an `Idempotency-Key` is known."""
_ALONE = f"(deaths > 0 OR interruptions >= {_ALONE_FROM} OR dialogue IS NOT NULL)"
"""Condition of jobs that share their pass with no other; one with several speakers has a pass of its own."""
_BACK = (
    "UPDATE videos SET status = 'queued', stage = 'waiting', progress = 0, frames_done = 0, "
    "started_at = NULL, fps = NULL, seconds_left = NULL, revision = revision + 1"
)


class JobQueue:
    """The jobs of a store, for the one engine that runs them."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def claim(self, limit: int) -> list[Video]:
        """Start the next job, and up to `limit` jobs with its face and options, which share its pass.

        Faces that no other worker is working on come first. A job over which a worker died runs alone.
        """
        if not self._has_waiting():
            return []
        with self.store.database.transaction() as connection:
            first = connection.execute(
                f"SELECT *, {_ALONE} AS alone FROM videos WHERE status = 'queued' ORDER BY "
                "face_id IN (SELECT face_id FROM videos WHERE status = 'in_progress'), turn LIMIT 1"
            ).fetchone()
            if first is None:
                return []
            same = connection.execute(
                "SELECT id FROM videos WHERE status = 'queued' AND face_id = ? AND options = ? AND model = ? "
                f"AND turn >= ? AND NOT {_ALONE} ORDER BY turn LIMIT ?",
                (first["face_id"], first["options"], first["model"], first["turn"], limit),
            )
            ids = [first["id"]] if first["alone"] else [row["id"] for row in same]
            for video_id in ids:
                connection.execute(
                    "UPDATE videos SET status = 'in_progress', stage = 'preparing', started_at = ?, "
                    "revision = revision + 1 WHERE id = ?",
                    (int(time()), video_id),
                )
            rows.move_up(connection)
            started = [connection.execute(f"{rows.VIDEO} WHERE id = ?", (name,)).fetchone() for name in ids]
            return [rows.video(row) for row in started]

    def _has_waiting(self) -> bool:
        found = self.store.database.connection.execute("SELECT 1 FROM videos WHERE status = 'queued' LIMIT 1")
        return found.fetchone() is not None

    def running(self, ids: Sequence[str]) -> set[str]:
        """Return those of the jobs that are in progress: neither cancelled nor deleted."""
        marks = ", ".join("?" * len(ids))
        found = self.store.database.connection.execute(
            f"SELECT id FROM videos WHERE status = 'in_progress' AND id IN ({marks})", tuple(ids)
        )
        return {row["id"] for row in found}

    def progress(
        self,
        video_id: str,
        *,
        stage: Stage,
        frames_done: int,
        frames: int,
        fps: float | None,
        seconds_left: float | None,
    ) -> None:
        """Note the progress of a running job."""
        percent = min(99, 100 * frames_done // max(1, frames))
        with self.store.database.transaction() as connection:
            connection.execute(
                "UPDATE videos SET stage = ?, progress = ?, frames_done = ?, frames = ?, fps = ?, "
                "seconds_left = ?, revision = revision + 1 WHERE id = ? AND status = 'in_progress'",
                (stage, percent, frames_done, frames, fps, seconds_left, video_id),
            )

    def finish(
        self, video_id: str, *, report: Mapping[str, Any] | None, frames: int, seconds: float, size: str
    ) -> bool:
        """Complete a running job; return False if it was cancelled or deleted meanwhile."""
        with self.store.database.transaction() as connection:
            is_ended = rows.end(
                connection,
                video_id,
                "completed",
                self.store.keep,
                report=rows.to_json(report),
                progress=100,
                frames=frames,
                frames_done=frames,
                seconds=seconds,
                size=size,
            )
            if is_ended:
                rows.add_to_total(connection, "frames", frames)
                rows.add_to_total(connection, "seconds", seconds)
        return is_ended

    def fail(self, video_id: str, code: str, message: str) -> None:
        """End a job with an error."""
        error = rows.to_json({"code": code, "message": message})
        with self.store.database.transaction() as connection:
            rows.end(connection, video_id, "failed", self.store.keep, error=error)

    def release(self, ids: Sequence[str]) -> None:
        """Put running jobs back into the queue, at their old places, without counting an attempt."""
        self._back(ids, "")

    def worker_died(self, ids: Sequence[str], detail: str) -> None:
        """Put the jobs of a worker that died at the end of the queue; fail one that has had its chances.

        Of several jobs, any may be the cause, so each then runs alone.
        """
        for video_id in ids if len(ids) == 1 else ():
            row = self.store.database.connection.execute(
                "SELECT deaths FROM videos WHERE id = ?", (video_id,)
            ).fetchone()
            if row is not None and row["deaths"] + 1 >= MAX_DEATHS:
                self.fail(video_id, "died", detail)
        self._back(ids, f", deaths = deaths + 1, turn = {NEXT_TURN}")

    def _back(self, ids: Sequence[str], more: str) -> None:
        if not ids:
            return
        with self.store.database.transaction() as connection:
            for video_id in ids:
                connection.execute(f"{_BACK}{more} WHERE id = ? AND status = 'in_progress'", (video_id,))
            rows.move_up(connection)

    def requeue_orphans(self) -> int:
        """Put the running jobs of an engine that has ended back into the queue, and return their number."""
        with self.store.database.transaction() as connection:
            worn = connection.execute(
                "SELECT id FROM videos WHERE status = 'in_progress' AND interruptions + 1 >= ?",
                (MAX_INTERRUPTIONS,),
            ).fetchall()
            text = f"the service was killed {MAX_INTERRUPTIONS} times while it ran this job. Start a new one."
            error = rows.to_json({"code": "died", "message": text})
            for row in worn:
                rows.end(connection, row["id"], "failed", self.store.keep, error=error)
            back = connection.execute(
                f"{_BACK}, interruptions = interruptions + 1 WHERE status = 'in_progress'"
            )
            return back.rowcount

    def forget_workers(self) -> None:
        """Remove the workers of an engine that has ended."""
        with self.store.database.transaction() as connection:
            connection.execute("DELETE FROM workers")

    def set_worker(self, worker: Worker) -> None:
        """Note the state of a worker."""
        values = worker.name, worker.state, worker.detail, worker.changed_at
        with self.store.database.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO workers VALUES (?, ?, ?, ?)", values)

    def expire(self, now: float) -> None:
        """Remove videos and files whose time is over, and what killed processes have left in the folder."""
        with self.store.database.transaction() as connection:
            connection.execute("DELETE FROM requests WHERE created_at < ?", (int(now) - _KEEP_REQUESTS_S,))
            connection.execute("DELETE FROM videos WHERE expires_at <= ?", (int(now),))
            if self.store.keep is not None:
                connection.execute(
                    "DELETE FROM files WHERE used_at + ? <= ? "
                    "AND NOT EXISTS (SELECT 1 FROM video_files WHERE file_id = files.id)",
                    (self.store.keep, now),
                )
            self._remove_unknown(connection)

    def _remove_unknown(self, connection: sqlite3.Connection) -> None:
        """Remove contents of files and folders of videos that have no row."""
        files = {row["sha256"] for row in connection.execute("SELECT sha256 FROM files")}
        for entry in os.scandir(self.store.folder / "files"):
            if entry.name not in files:
                os.unlink(entry.path)
        videos = {row["id"] for row in connection.execute("SELECT id FROM videos")}
        for entry in os.scandir(self.store.folder / "videos"):
            if entry.name not in videos:
                shutil.rmtree(entry.path, ignore_errors=True)
