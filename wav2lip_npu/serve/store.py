"""The store of the service: uploaded files, videos and their queue, in a folder.

Its methods may be called in any thread of any process. What a method has returned survives a killed process
and a power failure. `queue` has what the engine does with the videos, `listing` lists and news of them, and
`state` counts and the workers.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from time import time
from typing import Any

from wav2lip_npu.errors import OutputError
from wav2lip_npu.serve import rows
from wav2lip_npu.serve.database import NEXT_TURN, Database
from wav2lip_npu.serve.records import (
    ConflictError,
    NotFoundError,
    StoredFile,
    Video,
)
from wav2lip_npu.storage.atomic import flush_to_disk

DATABASE = "serve.sqlite3"
OUTPUT, REPORT, THUMBNAIL = "out.mp4", "report.json", "thumbnail.jpg"
"""Files in the folder of a video."""


class Store:
    """The files and videos in a folder.

    Args:
        folder: Folder of the service, created if it does not exist.
        keep: Seconds after which a finished video, and a file that no video uses, are removed; None: never.

    Raises:
        OutputError: The folder cannot be created.
        DataError: Its database cannot be used.

    """

    def __init__(self, folder: str | os.PathLike[str], keep: float | None = None) -> None:
        self.folder, self.keep = Path(folder), keep
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700, exist_ok=True)
            for name in ("files", "videos", "uploads"):
                (self.folder / name).mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot write {folder}: {error.strerror}. Pass another --data.") from None
        self.database = Database(self.folder / DATABASE)

    # ---- files ----

    def upload_path(self) -> Path:
        """Return a new path for an upload, for `add_file`."""
        return self.folder / "uploads" / secrets.token_hex(12)

    def forget_uploads(self) -> None:
        """Remove the incomplete uploads of a service that was killed. No other may use the folder."""
        for entry in os.scandir(self.folder / "uploads"):
            os.unlink(entry.path)

    def add_file(self, upload: Path, *, sha256: str, name: str, media: Mapping[str, Any]) -> StoredFile:
        """Move a complete upload into the store; one with the content of a stored file replaces it.

        Args:
            upload: Path from `upload_path`.
            sha256: Hash of its content, 64 hex digits.
            name: Name that the client gave.
            media: Properties of its content, as JSON.

        """
        file_id = f"file_{sha256[:24]}"
        flush_to_disk(upload)
        size = upload.stat().st_size
        with self.database.transaction() as connection:
            target = self.folder / "files" / sha256
            if target.exists():  # a worker may be reading it
                upload.unlink()
            else:
                os.replace(upload, target)
                flush_to_disk(target.parent)
            now = int(time())
            values = file_id, sha256, name, size, now, now, json.dumps(dict(media))
            connection.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?)", values)
        stored = self.file(file_id)
        if stored is None:
            raise NotFoundError(f"the file {file_id} was deleted during its upload. Upload it again.")
        return stored

    def file(self, file_id: str) -> StoredFile | None:
        """Return a file; None if there is none with this ID."""
        row = self.database.connection.execute("SELECT * FROM files WHERE id = ?", (file_id,)).fetchone()
        return None if row is None else rows.file(row)

    def content(self, file: StoredFile) -> Path:
        """Return the path of the content of a file."""
        return self.folder / "files" / file.sha256

    def delete_file(self, file_id: str) -> bool:
        """Delete a file; return False if there is none with this ID.

        Raises:
            ConflictError: A job that has not ended uses it.

        """
        with self.database.transaction() as connection:
            row = connection.execute("SELECT * FROM files WHERE id = ?", (file_id,)).fetchone()
            if row is None:
                return False
            (uses,) = connection.execute(
                "SELECT count(*) FROM video_files JOIN videos ON videos.id = video_id "
                "WHERE file_id = ? AND status IN ('queued', 'in_progress')",
                (file_id,),
            ).fetchone()
            if uses:
                jobs = (
                    "1 job that has not ended uses" if uses == 1 else f"{uses} jobs that have not ended use"
                )
                raise ConflictError(f"{jobs} the file {file_id}. Cancel or await them first.")
            connection.execute("DELETE FROM files WHERE id = ?", (file_id,))
            self.content(rows.file(row)).unlink(missing_ok=True)
        return True

    # ---- videos ----

    def create(
        self,
        *,
        model: str,
        face_id: str,
        audio_id: str,
        options: Mapping[str, Any],
        dialogue: Mapping[str, Any] | None = None,
        more_files: Iterable[str] = (),
        client: str = "",
        seconds: float | None = None,
        size: str | None = None,
        idempotency_key: str | None = None,
        body_hash: str = "",
        max_queue: int | None = None,
        max_jobs: int | None = None,
        webhook_url: str | None = None,
    ) -> Video:
        """Queue a job.

        Args:
            model: Name of the weights.
            face_id: File with the face.
            audio_id: File with the audio.
            options: Options of the dub by name, as JSON.
            dialogue: Several speakers, see `dialogues`.
            more_files: Other files of the job: audio files and photos of the speakers.
            client: Name of the client.
            seconds: Expected duration of the output.
            size: Expected size of the output, such as `1080x1920`.
            idempotency_key: Key of the request. A second one with this key returns its video, see `earlier`.
            body_hash: Hash of the request.
            max_queue: Maximum number of waiting jobs.
            max_jobs: Maximum number of jobs of this client that have not ended.
            webhook_url: Address to call at its end, see `webhooks`.

        Raises:
            NotFoundError: A file does not exist.
            ConflictError: A request with this key had another body.
            GoneError: The video of the request with this key was deleted.
            QueueFullError: A maximum would be exceeded.

        """
        now = int(time())
        video_id = f"video_{secrets.token_hex(12)}"
        with self.database.transaction() as connection:
            if idempotency_key is not None:
                earlier = rows.earlier_video(connection, client, idempotency_key, body_hash)
                if earlier is not None:
                    return earlier
            names: dict[str, str] = {}
            for file_id in (face_id, audio_id, *more_files):
                used = connection.execute(
                    "UPDATE files SET used_at = ? WHERE id = ? RETURNING name", (now, file_id)
                ).fetchone()
                if used is None:
                    raise NotFoundError(f"there is no file {file_id}. Upload it first.")
                names[file_id] = used["name"]
            rows.check_room(connection, client, max_queue, max_jobs)
            connection.execute(
                "INSERT INTO videos "
                "(turn, id, model, created_at, face_id, audio_id, face_name, audio_name, options, dialogue, "
                f"client, seconds, size) VALUES ({NEXT_TURN}, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    video_id,
                    model,
                    now,
                    face_id,
                    audio_id,
                    names[face_id],
                    names[audio_id],
                    rows.to_json(options),
                    rows.to_json(dialogue),
                    client,
                    seconds,
                    size,
                ),
            )
            uses = [(video_id, file_id, name) for file_id, name in names.items()]
            connection.executemany("INSERT INTO video_files VALUES (?, ?, ?)", uses)
            if webhook_url is not None:
                connection.execute(
                    "INSERT INTO webhooks (video_id, url) VALUES (?, ?)", (video_id, webhook_url)
                )
            if idempotency_key is not None:
                request = client, idempotency_key, body_hash, video_id, now
                connection.execute("INSERT INTO requests VALUES (?, ?, ?, ?, ?)", request)
            return rows.video(connection.execute(f"{rows.VIDEO} WHERE id = ?", (video_id,)).fetchone())

    def earlier(self, client: str, idempotency_key: str, body_hash: str) -> Video | None:
        """Return the video of an earlier request with this key; None if there was none.

        Raises:
            ConflictError: That request had another body.
            GoneError: Its video was deleted, or has expired.

        """
        return rows.earlier_video(self.database.connection, client, idempotency_key, body_hash)

    def video(self, video_id: str) -> Video | None:
        """Return a video; None if there is none with this ID."""
        row = self.database.connection.execute(f"{rows.VIDEO} WHERE id = ?", (video_id,)).fetchone()
        return None if row is None else rows.video(row)

    def cancel(self, video_id: str) -> Video | None:
        """Cancel a job that has not ended, and return it; None if there is none with this ID.

        The engine stops a running one within seconds.
        """
        with self.database.transaction() as connection:
            before = connection.execute(f"{rows.VIDEO} WHERE id = ?", (video_id,)).fetchone()
            if before is not None and before["status"] in ("queued", "in_progress"):
                rows.end(connection, video_id, "cancelled", self.keep)
                rows.move_up(connection)
        return self.video(video_id)

    def delete(self, video_id: str) -> bool:
        """Delete a video and its files; return False if there is none with this ID. A running job stops."""
        try:
            is_known = self._delete_row(video_id)
        except OutputError:  # the disk is full: the files of the video make room for the change
            video = self.video(video_id)
            if video is None or not video.is_final:
                raise
            shutil.rmtree(self.video_folder(video_id), ignore_errors=True)
            is_known = self._delete_row(video_id)
        shutil.rmtree(self.video_folder(video_id), ignore_errors=True)
        return is_known

    def _delete_row(self, video_id: str) -> bool:
        with self.database.transaction() as connection:
            is_known = connection.execute("DELETE FROM videos WHERE id = ?", (video_id,)).rowcount > 0
            rows.move_up(connection)
        return is_known

    def names_of(self, video_id: str) -> dict[str, str]:
        """Return the paths of the files of a video, and the names that they had when it was created."""
        found = self.database.connection.execute(
            "SELECT sha256, video_files.name AS name FROM video_files JOIN files ON files.id = file_id "
            "WHERE video_id = ?",
            (video_id,),
        )
        return {os.fspath(self.folder / "files" / row["sha256"]): row["name"] for row in found}

    def video_folder(self, video_id: str) -> Path:
        """Return the folder of a video with its `OUTPUT`, `REPORT` and `THUMBNAIL`."""
        return self.folder / "videos" / video_id
