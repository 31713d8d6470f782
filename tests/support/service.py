"""The HTTP service in a thread, with an engine that copies a file instead of dubbing, and a client for it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import shutil
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep, time
from typing import Any

import httpx
import uvicorn

from wav2lip_npu.errors import FaceError
from wav2lip_npu.serve.app import create_app
from wav2lip_npu.serve.connections import PatientProtocol
from wav2lip_npu.serve.engine_options import EngineOptions
from wav2lip_npu.serve.interactive import Interactive
from wav2lip_npu.serve.options import ServeOptions
from wav2lip_npu.serve.queue import JobQueue
from wav2lip_npu.serve.records import Video, Worker
from wav2lip_npu.serve.store import OUTPUT, REPORT, THUMBNAIL, Store

JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQEASABIAAD/2wBDAP//////////////////////////////////////////////////////////////////////////"
    "////////////wgALCAABAAEBAREA/8QAFBABAAAAAAAAAAAAAAAAAAAAAP/aAAgBAQABPxA="
)


class FakeEngine:
    """Takes jobs from the queue in a thread, while `runs` is set. A job with crf 51 fails."""

    def __init__(self, store: Store, output: Path) -> None:
        self.queue, self._output = JobQueue(store), output
        self.runs = threading.Event()
        self.runs.set()
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.queue.set_worker(Worker(name="cpu", state="ready", detail="", changed_at=int(time())))
        self._thread.start()

    def close(self) -> None:
        self._is_closed.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_closed.is_set():
            if self.runs.is_set():
                for video in self.queue.claim(4):
                    self._work(video)
            sleep(0.02)
        self.queue.store.database.close()

    def _work(self, video: Video) -> None:
        name = video.id
        for done in (10, 20, 30):
            values = {"stage": "dubbing", "frames": 30, "fps": 15.0, "seconds_left": (30 - done) / 15}
            self.queue.progress(name, frames_done=done, **values)
        if video.options.get("crf") == 51:
            self.queue.fail(name, "no_face", "no face in face.mp4. Pass another.")
            return
        folder = self.queue.store.video_folder(name)
        folder.mkdir()
        shutil.copy(self._output, folder / OUTPUT)
        (folder / THUMBNAIL).write_bytes(JPEG)
        report = {
            "frames": 30,
            "dubbed_frames": 25,
            "unchanged_spans": [[0, 4, "turned"]],
            "fps": "25",
            "width": 320,
            "height": 240,
            "seconds": 1.5,
            "device": "cpu",
            "check": {"offset": 0, "confidence": 0.5},
        }
        if video.dialogue is not None:
            report |= {"check": None, "speakers": speakers_of(video.dialogue)}
        (folder / REPORT).write_text(json.dumps(report))
        self.queue.finish(name, report=report, frames=30, seconds=1.2, size="320x240")


def speakers_of(dialogue: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what a report has of speakers who take turns of half a second; the last one is never dubbed."""
    speakers = dialogue["speakers"]
    return [
        {
            "name": one["name"],
            "audio": [],
            "face": one["face"],
            "turns": [(number / 2, number / 2 + 0.5)],
            "dubbed_frames": 13 if one is not speakers[-1] else 0,
            "unchanged_spans": [],
        }
        for number, one in enumerate(speakers)
    ]


class FakeInteractive(Interactive):
    """Answers with constants, without a process."""

    def __init__(self) -> None:
        super().__init__(EngineOptions(folder=""))
        self.starts = 0

    def start(self) -> None:
        self.starts += 1

    def faces(self, path: str, time: float, **more: Any) -> dict[str, Any]:
        if time > 100:
            raise FaceError(f"no frame of {path} at {time:g} s. Pass another time.")
        face = {"box": [1, 2, 3, 4], "confidence": 0.9, "pose": None, "face_select": "2,3", "reason": None}
        size = {"width": 320, "height": 240, "seconds": 2.0, "fps": 25.0}
        return {"object": "faces", "time": time, **size, "faces": [face], "picture": ""}

    def preview(
        self, face: str, audio: str, model: str, options: Mapping[str, Any], time: float, **more: Any
    ) -> tuple[bytes, float]:
        return JPEG, time

    def envelope(self, path: str, points: int, **more: Any) -> dict[str, Any]:
        return {"object": "envelope", "seconds": 1.0, "points": [0.5] * points, "pauses": [[0.2, 0.4]]}


@dataclass(frozen=True)
class RunningService:
    """A service, and a client without a token."""

    url: str
    store: Store
    engine: FakeEngine
    client: httpx.Client
    app: Any
    uploads: dict[Path, str] = field(default_factory=dict)

    def upload(self, path: Path) -> str:
        """Upload a file once, and return its ID."""
        if path not in self.uploads:
            with open(path, "rb") as file:
                answer = self.client.post("/v1/files", files={"file": (path.name, file)})
            assert answer.status_code == 200, answer.text
            self.uploads[path] = answer.json()["id"]
        return self.uploads[path]

    def wait(self, video_id: str, status: str = "completed") -> dict[str, Any]:
        """Return a job as soon as it has ended with a status."""
        deadline = monotonic() + 60
        while monotonic() < deadline:
            video: dict[str, Any] = self.client.get(f"/v1/videos/{video_id}").json()
            if video["status"] == status:
                return video
            assert video["status"] in ("queued", "in_progress"), video
            sleep(0.02)
        raise AssertionError(f"{video_id} is not {status}")


@contextlib.contextmanager
def running_service(
    folder: Path, output: Path, interactive: Interactive | None = None, **options: Any
) -> Iterator[RunningService]:
    """Run a service during the block."""
    settings = ServeOptions(**{"data": str(folder), "disk_floor": "1MB", **options})
    store = Store(folder, settings.keep_seconds)
    engine = FakeEngine(store, output)
    app = create_app(settings, store, interactive or FakeInteractive())
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            http=PatientProtocol,
            ws_per_message_deflate=False,
            log_level="error",
            timeout_graceful_shutdown=1,
        )
    )
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    try:
        with httpx.Client(base_url=url, timeout=60) as client:
            yield RunningService(url, store, engine, client, app)
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
        engine.close()
        store.database.close()


def events_of(lines: Iterator[str]) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Yield kind, ID and data of server-sent events."""
    event: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if line:
            event[name] = value
        elif "event" in event:
            yield event["event"], int(event["id"]), json.loads(event["data"])
            event = {}
        else:
            event = {}
