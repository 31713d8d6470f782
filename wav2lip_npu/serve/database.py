"""The SQLite database of the service, which its processes and their threads share."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from wav2lip_npu.errors import DataError, OutputError

_BUSY_S = 60.0
"""Seconds to wait for another process that is writing. A transaction takes milliseconds."""
NEXT_TURN = "(SELECT coalesce(max(turn), 0) + 1 FROM videos)"
"""The last place in the queue."""
_FIRST_SCHEMA = """
CREATE TABLE files (
    id TEXT PRIMARY KEY, sha256 TEXT NOT NULL, name TEXT NOT NULL, bytes INTEGER NOT NULL,
    created_at INTEGER NOT NULL, used_at INTEGER NOT NULL, media TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE videos (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, model TEXT NOT NULL,
    turn INTEGER NOT NULL,
    status TEXT NOT NULL DEFAULT 'queued', stage TEXT NOT NULL DEFAULT 'waiting',
    progress INTEGER NOT NULL DEFAULT 0, revision INTEGER NOT NULL DEFAULT 1,
    created_at INTEGER NOT NULL, started_at INTEGER, completed_at INTEGER, expires_at INTEGER,
    face_id TEXT NOT NULL, audio_id TEXT NOT NULL,
    face_name TEXT NOT NULL, audio_name TEXT NOT NULL, options TEXT NOT NULL, error TEXT,
    frames INTEGER, frames_done INTEGER NOT NULL DEFAULT 0, fps REAL, seconds_left REAL,
    seconds REAL, size TEXT, report TEXT, client TEXT NOT NULL,
    deaths INTEGER NOT NULL DEFAULT 0, interruptions INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX videos_of_status ON videos (status, turn);
CREATE INDEX videos_by_turn ON videos (turn);
CREATE INDEX videos_of_face ON videos (face_id);
CREATE INDEX videos_of_audio ON videos (audio_id);
CREATE TABLE requests (
    client TEXT NOT NULL, key TEXT NOT NULL, body_hash TEXT NOT NULL, video_id TEXT NOT NULL,
    created_at INTEGER NOT NULL, PRIMARY KEY (client, key)
) WITHOUT ROWID;
CREATE TABLE totals (name TEXT PRIMARY KEY, value REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE workers (
    name TEXT PRIMARY KEY, state TEXT NOT NULL, detail TEXT NOT NULL, changed_at INTEGER NOT NULL
) WITHOUT ROWID;
"""
_SEVERAL_SPEAKERS = """
ALTER TABLE videos ADD COLUMN dialogue TEXT;
CREATE TABLE video_files (
    video_id TEXT NOT NULL REFERENCES videos (id) ON DELETE CASCADE,
    file_id TEXT NOT NULL, name TEXT NOT NULL, PRIMARY KEY (video_id, file_id)
) WITHOUT ROWID;
CREATE INDEX videos_of_file ON video_files (file_id);
INSERT OR IGNORE INTO video_files SELECT id, face_id, face_name FROM videos;
INSERT OR IGNORE INTO video_files SELECT id, audio_id, audio_name FROM videos;
DROP INDEX videos_of_face;
DROP INDEX videos_of_audio;
"""
_WEBHOOKS = """
CREATE TABLE IF NOT EXISTS webhooks (
    video_id TEXT PRIMARY KEY, url TEXT NOT NULL, tries INTEGER NOT NULL DEFAULT 0,
    due REAL NOT NULL DEFAULT 0
) WITHOUT ROWID
"""
_CHANGES = (_FIRST_SCHEMA, _SEVERAL_SPEAKERS, _WEBHOOKS)
"""What each version of the schema changes in the one before. A database has the number of its version."""


class Database:
    """A database file, with one connection per thread.

    Raises:
        DataError: The file cannot be opened, or belongs to another version or program.

    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        self._writing = threading.Lock()
        """Threads of a process take turns; SQLite would let them try again after ever longer pauses."""
        try:
            with self.transaction() as connection:
                (number,) = connection.execute("PRAGMA user_version").fetchone()
                for change in _CHANGES[number:]:
                    for statement in change.split(";"):
                        connection.execute(statement)
                if number < len(_CHANGES):
                    connection.execute(f"PRAGMA user_version = {len(_CHANGES)}")
        except (sqlite3.Error, OutputError) as error:
            raise DataError(f"cannot use {path}: {error}. Pass another --data.") from None
        if number > len(_CHANGES):
            raise DataError(f"{path} was written by a newer version of wav2lip-npu. Pass another --data.")

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection of this thread, for reading."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None)
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA foreign_keys = ON")
            self._local.connection = connection
        return connection

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Keep other writers out during the block, and write all of its changes at its end, or none.

        Raises `OutputError` if the disk is full.
        """
        connection = self.connection
        with self._writing:
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            except BaseException as error:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError):
                    text = f"the service cannot store this: {error}. Free space on its disk, see --data."
                    raise OutputError(text) from error
                raise

    def close(self) -> None:
        """Close the connection of this thread."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is not None:
            self._local.connection = None
            connection.close()
