"""Connections and bodies of clients that send nothing, too much, or what cannot be stored."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from time import sleep

import pytest

from support.batch_jobs import wait_for
from support.service import RunningService, running_service
from wav2lip_npu.serve import bodies, connections

HOST = "Host: 127.0.0.1\r\n"
FORM = "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 1000\r\n\r\n--x\r\n"


@pytest.mark.parametrize(
    "sent", ["", f"GET /healthz HTTP/1.1\r\n{HOST}", f"POST /v1/files HTTP/1.1\r\n{HOST}{FORM}"]
)
def test_silent_connection_is_closed(service: RunningService, monkeypatch: pytest.MonkeyPatch, sent: str):
    monkeypatch.setattr(connections, "_LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(connections, "_HEAD_S", 0.1)
    monkeypatch.setattr(connections, "_BODY_S", 0.1)
    with socket.create_connection(address(service), timeout=10) as client:
        client.sendall(sent.encode())
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(100) == b""


def test_incomplete_upload_is_removed_at_the_end_of_the_service(tmp_path: Path, face_video: Path):
    with running_service(tmp_path, face_video) as ending:
        client = socket.create_connection(address(ending), timeout=10)
        part = 'Content-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        client.sendall(f"POST /v1/files HTTP/1.1\r\n{HOST}{FORM.replace('1000', '1000000')}{part}".encode())
        client.sendall(bytes(500_000))
        wait_for(lambda: list((ending.store.folder / "uploads").iterdir()))
    assert not list((ending.store.folder / "uploads").iterdir())
    client.close()


def test_slow_request_is_answered(service: RunningService, monkeypatch: pytest.MonkeyPatch):
    """An answer may take longer than a client may be silent, and a body that arrives slowly is taken."""
    monkeypatch.setattr(connections, "_LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(connections, "_BODY_S", 0.5)
    with socket.create_connection(address(service), timeout=10) as client:
        body = b'{"token": "no token"}'
        head = f"POST /v1/session HTTP/1.1\r\n{HOST}Content-Length: {len(body)}\r\n"
        client.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode())
        for byte in range(len(body)):
            client.sendall(body[byte : byte + 1])
            sleep(0.03)
        assert client.recv(1000).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("path", ["/v1/session", "/v1/faces", "/v1/previews", "/v1/streams", "/v1/videos"])
def test_bodies_are_bounded_and_can_be_stored(
    service: RunningService, monkeypatch: pytest.MonkeyPatch, path: str
):
    headers = {"Content-Type": "application/json"}
    for content in (b'{"file_id": "\\ud800", "face_id": "\\ud800"}', b"[" * 100_000, b"9" * 5000, b"\xff"):
        assert service.client.post(path, content=content, headers=headers).status_code == 400
    monkeypatch.setattr(bodies, "MAX_JSON", 100)
    answer = service.client.post(path, content=b"[" * 101, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_methods_that_clients_invent_are_counted_together(service: RunningService):
    for name in ("FIRST", "SECOND"):
        assert service.client.request(name, "/v1/videos").status_code == 405
    text = service.client.get("/metrics").text
    assert 'method="other"' in text and "FIRST" not in text


@pytest.mark.parametrize(
    ("ranges", "status"),
    [
        ("bytes=0-0", 206),
        ("bytes=-99999999999999999999", 206),
        ("bytes=99999999999-", 416),
        ("bytes=5-1", 400),
        (f"bytes=0-{'9' * 4400}", 400),
        (f"bytes={'0-,' * 5000}", 200),
    ],
)
def test_absurd_ranges(service: RunningService, face_video: Path, ranges: str, status: int):
    address = f"/v1/files/{service.upload(face_video)}/content"
    answer = service.client.get(address, headers={"Range": ranges})
    assert answer.status_code == status
    if status >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert "Range" in answer.json()["detail"] and answer.json()["status"] == status


def address(service: RunningService) -> tuple[str, int]:
    return "127.0.0.1", int(service.url.rpartition(":")[2])
