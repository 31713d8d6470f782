"""What one client does wrong, the others do not notice; limits; the death of the live process."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from time import monotonic, sleep
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from support.sockets import message, opened, path_of, socket
from wav2lip_npu.serve.streams import registry
from wav2lip_npu.serve.streams.vidx import images_of

CLIENT = """
import sys, time
from websockets.sync.client import connect
frames, audio = connect(sys.argv[1] + "/frames"), connect(sys.argv[1] + "/audio")
for number in range(1000):
    audio.send(bytes(range(256)) * 5)
    frames.recv()
    if number == 3:
        print("speaking", flush=True)
"""
"""A client in the middle of a stream."""


class Witness:
    """Somebody who looks at a stream, and notices when it stops."""

    def __init__(self, live, stream: dict) -> None:
        self.images = 0
        self._longest, self._last = 0.0, monotonic()
        self._frames: Any = None
        self._thread = threading.Thread(target=self._read, args=(live, path_of(stream, "frames")))
        self._thread.start()

    def _read(self, live, path: str) -> None:
        with contextlib.suppress(ConnectionClosed), socket(live, path) as self._frames:
            for data in self._frames:
                if isinstance(data, bytes):
                    self.images += len(images_of(data))
                    self._longest = max(self._longest, monotonic() - self._last)
                    self._last = monotonic()

    def sees(self, images: int) -> None:
        """Wait for more images."""
        wanted, deadline = self.images + images, monotonic() + 30
        while self.images < wanted:
            assert monotonic() < deadline, f"{wanted - self.images} of {images} images are missing"
            sleep(0.02)

    def close(self) -> None:
        self._frames.close()
        self._thread.join()
        assert self._longest < 5, f"no image for {self._longest:.1f} s"


@pytest.fixture
def streams(live):
    """The streams of the HTTP process."""
    return live.app.state.service.streams


@pytest.fixture
def stream(live, face) -> Iterator[dict]:
    """A stream of the client that does something wrong."""
    stream = opened(live, face)
    yield stream
    live.client.delete(f"/v1/streams/{stream['id']}")


@pytest.fixture
def witness(live, face) -> Iterator[Witness]:
    """A viewer of another stream, who must see images all the time."""
    other = opened(live, face, options={"fps": 20})
    witness = Witness(live, other)
    witness.sees(2)
    yield witness
    witness.sees(10)
    witness.close()
    assert live.client.delete(f"/v1/streams/{other['id']}").json()["status"] == "closed"


def test_client_that_is_killed(live, stream, witness, streams, monkeypatch):
    address = live.url.replace("http", "ws") + f"/v1/streams/{stream['id']}"
    client = subprocess.Popen([sys.executable, "-c", CLIENT, address], stdout=subprocess.PIPE)
    with client:
        assert client.stdout is not None and client.stdout.readline() == b"speaking\n"
        client.kill()
    monkeypatch.setattr(registry, "UNUSED_S", 0.3)
    ended = _end_of(live, stream)
    assert ended["status"] == "closed" and ended["error"]["code"] == "timeout"


def test_client_that_stops_reading(live, stream, witness):
    with (
        socket(live, path_of(stream, "frames"), max_queue=1, close_timeout=0.5) as stuck,
        socket(live, path_of(stream, "audio")) as audio,
    ):
        second = Witness(live, stream)
        second.sees(5)
        audio.send(bytes(6400))
        second.sees(40)
        witness.sees(10)
        second.close()
        assert len(images_of(stuck.recv(timeout=10))) == 1


def test_garbage(live, stream, witness, speech_pcm):
    with socket(live, path_of(stream, "audio")) as audio:
        for garbage, code in [
            (b"\x00", "options"),
            (bytes(3201), "options"),
            (bytes((1 << 20) + 2), "too_large"),
            ("hello", "bad_request"),
            ("[]", "bad_request"),
            ('{"type": 7}', "bad_request"),
            ('{"type": "dance"}', "bad_request"),
            ("[" * 100_000, "bad_request"),
        ]:
            audio.send(garbage)
            assert message(audio, "error")["code"] == code, garbage[:20]
        audio.send(b"")
        audio.send(speech_pcm.tobytes())
        while message(audio, "metrics")["delay_ms"] is None:
            pass
        with pytest.raises(ConnectionClosed) as error:
            audio.send(bytes(17 << 20))
            while True:
                audio.recv(timeout=30)
        # The service ends the connection before the message has arrived, so its reason may be lost.
        assert error.value.rcvd is None or error.value.rcvd.code == 1009


def test_ten_thousand_tiny_chunks(live, stream, witness, speech_pcm):
    data = speech_pcm[:10_000].tobytes()
    with socket(live, path_of(stream, "audio")) as audio:
        for start in range(0, 20_000, 2):
            audio.send(data[start : start + 2])
        audio.send('{"type": "flush"}')
        while (figures := message(audio, "metrics"))["delay_ms"] is None:
            pass
        # 0.6 s of speech are 15 frames; there are at most as many silent ones as are not speech.
        while figures["frames"] - figures["silent"] < 12:
            figures = message(audio, "metrics")


def test_newest_connection_sends_the_audio(live, stream):
    with socket(live, path_of(stream, "audio")) as first, socket(live, path_of(stream, "audio")) as second:
        assert message(first, "error")["code"] == "conflict"
        assert message(second, "metrics")["viewers"] == 0


def test_clear_drops_what_waits(live, stream, speech_pcm):
    with socket(live, path_of(stream, "audio")) as audio:
        data = np.tile(speech_pcm, 8).tobytes()  # 16 s
        for start in range(0, len(data), 640):
            audio.send(data[start : start + 640])
        audio.send('{"type": "clear"}')
        while (figures := message(audio, "metrics"))["cleared"] == 0:
            pass
        assert figures["frames"] - figures["silent"] < 150, "spoken, not dropped"


def test_large_garbage_is_freed_at_once(live):
    """Not only by the next full garbage collection: each message has 16 MiB."""
    large, used = {"type": "session.create", "inputs": {"image_b64": "%" * (15 << 20)}}, resident_bytes()
    gc.collect()
    gc.disable()
    try:
        with socket(live, "/v1/avatar/realtime") as client:
            for _ in range(4):
                client.send("x" * (16 << 20))
                assert message(client)["code"] == "bad_json"
                client.send(json.dumps(large))
                assert message(client)["code"] == "bad_image_base64"
        assert resident_bytes() - used < 100 << 20
    finally:
        gc.enable()


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def test_limits_of_streams(live, face, stream, streams, monkeypatch):
    body = {"face_id": live.upload(face)}
    options = streams._options
    monkeypatch.setattr(streams, "_options", replace(options, max_streams_per_client=1))
    answer = live.client.post("/v1/streams", json=body)
    assert answer.status_code == 429 and "--max_streams_per_client" in answer.json()["detail"]
    with monkeypatch.context() as patch:
        patch.setattr(registry, "_MAX_OPENING", 0)
        patch.setattr(streams, "_options", replace(options, max_streams=None, max_streams_per_client=None))
        answer = live.client.post("/v1/streams", json=body)
        assert (answer.status_code, answer.json()["code"]) == (503, "busy") and answer.headers["retry-after"]
    monkeypatch.setattr(streams, "_options", replace(options, max_streams=1))
    answer = live.client.post("/v1/streams", json=body)
    assert (answer.status_code, answer.json()["code"]) == (503, "busy") and answer.headers["retry-after"]
    with socket(live, "/v1/avatar/realtime") as client:
        client.send(json.dumps({"type": "session.create", "inputs": body}))
        assert message(client)["code"] == "busy"


def test_limit_of_viewers(live, stream, monkeypatch):
    monkeypatch.setattr(registry, "_MAX_VIEWERS", 1)
    path = path_of(stream, "frames")
    with socket(live, path), pytest.raises(InvalidStatus) as refused, socket(live, path):
        pass
    assert refused.value.response.status_code == 503


@pytest.mark.parametrize("name", ["max_silent_seconds", "max_stream_seconds"])
def test_limits_of_time(live, stream, streams, monkeypatch, name):
    with socket(live, path_of(stream, "audio")) as audio:
        monkeypatch.setattr(streams, "_options", replace(streams._options, **{name: 0.1}))
        error = message(audio, "ended")["error"]
        assert error["code"] == "timeout" and f"--{name}" in error["message"]


def test_live_process_that_is_killed(live, face, streams, speech_pcm):
    stream = opened(live, face)
    with (
        socket(live, path_of(stream, "audio")) as audio,
        socket(live, path_of(stream, "frames")) as frames,
        socket(live, "/v1/avatar/realtime") as client,
    ):
        create = json.dumps({"type": "session.create", "inputs": {"face_id": live.upload(face)}})
        client.send(create)
        assert message(client)["type"] == "session.created"
        audio.send(speech_pcm.tobytes())
        assert images_of(frames.recv(timeout=30))
        os.kill(streams.pid, signal.SIGKILL)
        for connection in (audio, frames):
            end = message(connection, "ended")
            assert end["status"] == "failed" and "signal 9" in end["error"]["message"]
        assert live.client.get("/healthz").status_code == 200
        assert live.client.get(f"/v1/streams/{stream['id']}").json()["error"]["code"] == "device"
        client.send(b"AUDI" + speech_pcm.tobytes())
        assert "No active session" in message(client)["message"]
        client.send(create)
        assert message(client, timeout=60)["type"] == "session.created", "the next one works"


@pytest.mark.slow
def test_memory_stays_flat(live, face, streams, speech_pcm):
    """Streams that come and go: the memory of both processes after 20 and after 120 of them."""
    sizes = []
    for number in range(120):
        stream = opened(live, face)
        with (
            socket(live, path_of(stream, "frames")) as frames,
            socket(live, path_of(stream, "audio")) as audio,
        ):
            audio.send(speech_pcm[:6400].tobytes())
            for _ in range(5):
                frames.recv(timeout=30)
        live.client.delete(f"/v1/streams/{stream['id']}")
        if number % 20 == 19:
            sizes.append([_memory(streams.pid), _memory(os.getpid())])
    assert np.ptp(sizes, axis=0).max() < 40e6, sizes


def _end_of(live, stream: dict) -> dict:
    deadline = monotonic() + 30
    while True:
        found = live.client.get(f"/v1/streams/{stream['id']}").json()
        if found["status"] != "open":
            return found
        assert monotonic() < deadline
        sleep(0.05)


def _memory(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * 4096
