"""WebSockets: tokens, pages of other sites, unknown streams."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from socket import create_connection

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from support.service import RunningService, running_service
from support.sockets import message, socket

TOKEN = "first-token-0123456789"
OMNIRT = "/v1/avatar/realtime"


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory, face: Path) -> Iterator[RunningService]:
    """A service with a token and without live streams."""
    folder = tmp_path_factory.mktemp("closed")
    (folder / "tokens").write_text(TOKEN)
    options = {"token_file": str(folder / "tokens"), "host": "0.0.0.0", "max_streams": 0}
    with running_service(folder / "data", face, **options) as running:
        yield running


def refusal(service: RunningService, path: str = OMNIRT, **options) -> tuple[int, dict]:
    with pytest.raises(InvalidStatus) as error, socket(service, path, **options):
        pass
    response = error.value.response
    assert response.headers["content-type"] == "application/problem+json"
    return response.status_code, json.loads(response.body)


def cookie_of(service: RunningService) -> str:
    answer = service.client.post("/v1/session", json={"token": TOKEN})
    cookie = answer.cookies["wav2lip_token"]
    service.client.cookies.clear()
    return f"wav2lip_token={cookie}"


def test_token_in_a_header_a_protocol_or_a_cookie(closed):
    origin = closed.url
    for options in (
        {"additional_headers": {"Authorization": f"Bearer {TOKEN}"}},
        {"additional_headers": {"X-API-Key": TOKEN}, "origin": "https://elsewhere.example"},
        {"subprotocols": [f"bearer.{TOKEN}"]},
        {"additional_headers": {"Cookie": cookie_of(closed)}, "origin": origin},
        {"additional_headers": {"Cookie": cookie_of(closed)}},
    ):
        with socket(closed, OMNIRT, **options) as client:
            client.send('{"type": "ping"}')
            assert message(client) == {"type": "pong"}


def test_the_server_names_another_protocol_than_the_token(closed):
    with socket(closed, OMNIRT, subprotocols=[f"bearer.{TOKEN}", "wav2lip"]) as client:
        assert client.subprotocol == "wav2lip"


def test_refusals(closed):
    for options, status in (
        ({}, 401),
        ({"subprotocols": ["bearer.wrong"]}, 401),
        ({"additional_headers": {"Authorization": "Bearer wrong"}}, 401),
        ({"origin": "https://elsewhere.example"}, 403),
        ({"additional_headers": {"Cookie": cookie_of(closed)}, "origin": "https://elsewhere.example"}, 403),
        ({"subprotocols": ["bearer.wrong"], "origin": "https://elsewhere.example"}, 403),
    ):
        assert refusal(closed, **options)[0] == status
    assert refusal(closed, f"{OMNIRT}?token={TOKEN}")[0] == 401


def test_pages_of_other_sites_and_other_names_of_this_machine(live):
    assert refusal(live, origin="https://elsewhere.example")[0] == 403
    assert refusal(live, subprotocols=["bearer.any"], origin="https://elsewhere.example")[0] == 403
    port = int(live.url.rpartition(":")[2])
    with pytest.raises(InvalidStatus) as error:
        connect(f"ws://elsewhere.example{OMNIRT}", sock=create_connection(("127.0.0.1", port)))
    assert error.value.response.status_code == 403 and b"--token_file" in error.value.response.body
    with socket(live, OMNIRT, origin=live.url) as client:
        client.send('{"type": "ping"}')
        assert message(client) == {"type": "pong"}


@pytest.mark.parametrize("name", ["audio", "frames"])
def test_unknown_stream(live, name):
    status, problem = refusal(live, f"/v1/streams/stream_0/{name}")
    assert status == 404 and problem["code"] == "not_found" and "stream_0" in problem["detail"]


def test_streams_can_be_off(closed, face):
    headers = {"Authorization": f"Bearer {TOKEN}"}
    closed.client.headers.update(headers)
    answer = closed.client.post("/v1/streams", json={"face_id": closed.upload(face)})
    assert answer.status_code == 503 and "--max_streams 0" in answer.json()["detail"]
    assert closed.client.get("/v1/audio2video/models").json()["models"] == []
    assert "wav2lip_live_process 0" in closed.client.get("/metrics").text
