"""Questions of waiting clients: a slow one delays no other, and is given up when nobody waits for it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import sleep
from typing import Any

import httpx
import pytest

from support import slow_looks
from support.batch_jobs import wait_for
from support.service import JPEG, FakeInteractive, RunningService, running_service
from wav2lip_npu.errors import DeviceError
from wav2lip_npu.serve import interactive
from wav2lip_npu.serve.engine_options import EngineOptions
from wav2lip_npu.serve.interactive import Interactive


@pytest.fixture
def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Interactive]:
    """Processes whose faces take no time and whose previews never end."""
    monkeypatch.setattr(interactive, "_start", slow_looks.start)
    running = Interactive(EngineOptions(folder=str(tmp_path)), {"faces": 60, "preview": 60, "envelope": 60})
    yield running
    running.close()


def preview(processes: Interactive, wanted: Callable[[], bool]) -> Any:
    return processes.preview("face", "audio", "starter", {}, 1.0, wanted=wanted)


def test_slow_preview_leaves_a_process_for_the_faces(
    processes: Interactive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interactive, "_ABANDON_S", 0)
    monkeypatch.setattr(interactive, "_PATIENCE_S", 0)
    left = threading.Event()
    processes.start()
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(preview, processes, lambda: not left.is_set())
        wait_for(lambda: len(processes._taken) == 1)
        assert processes.faces("face", 0) == processes.faces("face", 1)
        left.set()
        with pytest.raises(DeviceError, match="client has left"):
            slow.result(30)
    assert not processes._taken


def test_answer_that_takes_too_long_is_given_up(processes: Interactive) -> None:
    for process in processes._processes:
        process._seconds = {"preview": 0.1, "faces": 60}
    with pytest.raises(DeviceError, match=r"0\.1 s"):
        preview(processes, lambda: True)
    assert processes.faces("face", 0)


def test_process_may_die(processes: Interactive) -> None:
    answers = set()
    for _ in range(2):
        answers.add(processes.faces("face", 0))
        used, unused = sorted(processes._processes, key=lambda process: process._worker is None)
        assert unused._worker is None
        assert used._worker is not None
        os.kill(used._worker._process.pid, signal.SIGKILL)
        used._worker._process.join()
    assert len(answers) == 1
    processes.close()
    assert used._worker is None
    with pytest.raises(DeviceError, match="ending"):
        processes.faces("face", 0)


class SlowPreviews(FakeInteractive):
    """Makes previews until nobody wants them."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.ended = [], []

    def preview(self, *question: Any, wanted: Callable[[], bool]) -> tuple[bytes, float]:
        self.begun.append(question)
        while wanted():
            sleep(0.01)
        self.ended.append(question)
        return JPEG, 0.0


@pytest.fixture
def slow(tmp_path: Path, face_video: Path) -> Iterator[tuple[RunningService, SlowPreviews]]:
    previews = SlowPreviews()
    with running_service(tmp_path, face_video, previews) as service:
        yield service, previews


def test_client_that_leaves_ends_its_question(slow, face_video, speech) -> None:
    service, previews = slow
    body = {"face_id": service.upload(face_video), "audio_id": service.upload(speech)}
    assert previews.starts == 0

    def ask(patience: float) -> None:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{service.url}/v1/previews", json=body, timeout=patience)

    with ThreadPoolExecutor() as pool:
        asked = [pool.submit(ask, patience) for patience in (1.0, 0.4, 0.4)]
        wait_for(lambda: previews.begun)
        answer = service.client.post("/v1/faces", json={"file_id": body["face_id"]}, timeout=5)
        assert answer.status_code == 200
        assert not previews.ended
        for one in asked:
            one.result()
    wait_for(lambda: len(previews.ended) == len(previews.begun))
    assert len(previews.begun) < 4


def test_page_that_uploads_starts_the_process_early(slow, speech) -> None:
    service, previews = slow
    headers = {"Sec-Fetch-Site": "same-origin"}
    answer = service.client.post("/v1/files", files={"file": speech.read_bytes()}, headers=headers)
    assert answer.status_code == 200
    assert previews.starts == 1
