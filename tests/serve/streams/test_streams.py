"""Live streams of the service: REST, WebSockets, limits, and what ends them. One live process for all tests."""

from __future__ import annotations

import asyncio
import gc
import re
import shutil
import subprocess
import sys
import weakref
from pathlib import Path
from time import monotonic, sleep
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from support.sockets import message, opened, path_of, socket
from wav2lip_npu.serve.engine_options import EngineOptions
from wav2lip_npu.serve.streams import live as live_process
from wav2lip_npu.serve.streams import process
from wav2lip_npu.serve.streams.vidx import images_of


def test_stream_is_opened_listed_and_closed(live, face):
    stream = opened(live, face, options={"fps": 20, "pads": [0, 5, 0, 0]}, sample_rate=24_000)
    assert stream["id"].startswith("stream_") and stream["object"] == "stream"
    assert stream["status"] == "open" and stream["error"] is None
    assert (stream["width"], stream["height"], stream["fps"]) == (320, 240, 20)
    assert stream["sample_rate"] == 24_000 and stream["options"]["pads"] == [0, 5, 0, 0]
    path = f"/v1/streams/{stream['id']}"
    assert live.client.get(path).json()["id"] == stream["id"]
    assert live.client.delete(path).json()["status"] == "closed"
    assert live.client.get(path).json()["status"] == "closed"
    listed = live.client.get("/v1/streams").json()["data"]
    assert [entry["status"] for entry in listed if entry["id"] == stream["id"]] == ["closed"]
    assert live.client.get("/v1/streams/stream_0").status_code == 404


def test_commands_of_the_guide(live, face):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    guide = Path(__file__).resolve().parents[3] / "docs" / "serve.md"
    (block,) = re.findall(r"^```sh\n(.*?)^```", guide.read_text(), re.MULTILINE | re.DOTALL)
    script = f"""set -euo pipefail
        id() {{ {sys.executable} -c 'import json, sys; print(json.load(sys.stdin)["id"])'; }}
        FACE={live.upload(face)}
        {block.replace("localhost:8000", live.url.removeprefix("http://"))}"""
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert '"status":"open"' in result.stdout and '"status":"closed"' in result.stdout


@pytest.mark.parametrize(
    ("values", "status", "code", "named"),
    [
        ({"face_id": "file_0"}, 404, "not_found", "file_0"),
        ({"model": "none.pth"}, 422, "weights", "none.pth"),
        ({"options": {"fps": 1000}}, 422, "options", "--fps"),
        ({"options": {"max_sessions": 9}}, 422, "options", "max_sessions"),
        ({"options": {"blnd": "soft"}}, 422, "options", "blend"),
        ({"options": {"blend": 3}}, 422, "options", "--blend"),
        ({"sample_rate": 10}, 422, "options", "--sample_rate"),
        ({"sample_rate": 10**400}, 422, "options", "--sample_rate"),
        ({"unknown": 1}, 422, "options", "unknown"),
    ],
)
def test_refusals_name_the_value(live, face, values, status, code, named):
    body = {"face_id": live.upload(face), **values}
    answer = live.client.post("/v1/streams", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert named in answer.json()["detail"]


def mouths(images: list[bytes]) -> np.ndarray:
    """Return the mouth regions of JPEG images, which move with the face."""
    decoded = [cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_GRAYSCALE) for image in images]
    return np.stack([image[120:200] for image in decoded]).astype(int)


def images_from(connection, count: int) -> list[bytes]:
    images: list[bytes] = []
    while len(images) < count:
        images += images_of(connection.recv(timeout=30))
    return images


def test_broken_weights_show_no_path_of_the_server(live, face):
    answer = live.client.post("/v1/streams", json={"face_id": live.upload(face), "model": "broken.pth"})
    assert answer.status_code == 422 and answer.json()["code"] == "weights"
    assert "broken.pth" in answer.json()["detail"] and "/" not in answer.json()["detail"]


def test_audio_goes_in_and_images_come_out(live, face, speech_pcm):
    stream = opened(live, face)
    with socket(live, path_of(stream, "frames")) as frames, socket(live, path_of(stream, "audio")) as audio:
        silent = images_from(frames, 12)
        for start in range(0, len(speech_pcm), 320):
            audio.send(speech_pcm[start : start + 320].tobytes())
        audio.send('{"type": "flush"}')
        spoken = images_from(frames, 30)
        while (metrics := message(audio, "metrics"))["frames"] <= 12:
            pass
        assert mouths(spoken).shape[2] == 320
        # In silence the closed mouth of a frame of the avatar is always the same; in speech it is not.
        assert len(set(silent)) <= 13 < len(set(spoken)), "the avatar has 12 frames"
        assert metrics["viewers"] == 1 and metrics["silent"] > 0
        audio.send('{"type": "close"}')
        assert message(audio, "ended")["status"] == "closed"
        assert message(frames, "ended")["error"] is None
    assert live.client.get(f"/v1/streams/{stream['id']}").json()["delay_ms"]["median"] > 0


def test_process_ends_when_it_is_idle(live, face, monkeypatch):
    streams = live.app.state.service.streams
    monkeypatch.setattr(process, "_IDLE_S", 0.1)
    live.client.delete(f"/v1/streams/{opened(live, face)['id']}")
    deadline = monotonic() + 30
    while streams.pid is not None:
        assert monotonic() < deadline
        sleep(0.02)
    assert "wav2lip_live_process 0" in live.client.get("/metrics").text


def test_replaced_weights_are_loaded_again_and_the_old_ones_freed(tmp_path, monkeypatch):
    weights = tmp_path / "weights.pth"
    monkeypatch.setattr(live_process, "load_models", lambda path, **_: Content(Path(path).read_text()))

    async def load_both() -> None:
        server = live_process.LiveServer(None, EngineOptions(folder=str(tmp_path), devices=("cpu",)))
        weights.write_text("one")
        old = await server._loaded(str(weights))
        assert old.text == "one" and await server._loaded(str(weights)) is old
        server._latest.append(SimpleNamespace(models=old))
        kept = weakref.ref(old)
        del old
        weights.write_text("another")
        assert (await server._loaded(str(weights))).text == "another"
        gc.collect()
        assert kept() is None

    asyncio.run(load_both())


class Content:
    """Networks."""

    def __init__(self, text: str) -> None:
        self.text = text
