"""Tokens, the cookie of the page, foreign web pages, and what needs no token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from support.service import RunningService, running_service
from wav2lip_npu.errors import UsageError
from wav2lip_npu.serve.options import ServeOptions

TOKEN, OTHER = "first-token-0123456789", "other-token-0123456789"


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory, face_video: Path) -> Iterator[RunningService]:
    """A service with two tokens."""
    folder = tmp_path_factory.mktemp("closed")
    (folder / "tokens").write_text(f"{TOKEN}\n\n{OTHER}\n")
    options = {"token_file": str(folder / "tokens"), "host": "0.0.0.0", "max_per_client": 1}
    with running_service(folder / "data", face_video, **options) as running:
        yield running


def status(service, path="/v1/videos", method="GET", **headers):
    named = {name.replace("_", "-"): value.encode("latin-1") for name, value in headers.items()}
    answer = httpx.request(method, service.url + path, headers=named, json={} if method == "POST" else None)
    if answer.status_code in (401, 403):
        assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, 401),
        ({"authorization": f"Bearer {TOKEN}"}, 200),
        ({"authorization": f"bearer {OTHER}"}, 200),
        ({"x_api_key": OTHER}, 200),
        ({"authorization": f"Bearer {TOKEN}x"}, 401),
        ({"authorization": f"Bearer {TOKEN[:-1]}"}, 401),
        ({"authorization": f"Basic {TOKEN}"}, 401),
        ({"authorization": "Bearer \xff"}, 401),
        ({"authorization": "Bearer"}, 401),
        ({"cookie": f"wav2lip_token={TOKEN}"}, 401),
        ({"cookie": "wav2lip_token=\xff; ;;="}, 401),
    ],
)
def test_token(closed, headers, expected):
    assert status(closed, **headers) == expected


def test_paths_without_a_token(closed):
    for path in ("/healthz", "/readyz", "/", "/docs", "/openapi.json", "/v1/limits", "/page/page.js"):
        assert status(closed, path) == 200, path
    for path in (
        "/metrics",
        "/v1/models",
        "/v1/videos/x",
        "/v1/files/x/content",
        "/v1",
        "/v1/x",
        "//v1/videos",
    ):
        assert status(closed, path) in (401, 404), path
    assert status(closed, "/metrics") == 401
    assert httpx.get(f"{closed.url}/v1/limits").json()["needs_token"] is True


def test_session_cookie(closed):
    with httpx.Client(base_url=closed.url) as client:
        assert client.post("/v1/session", json={"token": "wrong-token-0123456789"}).status_code == 401
        answer = client.post("/v1/session", json={"token": TOKEN})
        cookie = answer.headers["set-cookie"]
        assert answer.status_code == 204 and TOKEN not in cookie
        assert "HttpOnly" in cookie and "SameSite=strict" in cookie
        assert client.get("/v1/videos").status_code == 200
        body = {"face_id": "file_0", "audio_id": "file_0"}
        for headers, expected in (
            ({"Sec-Fetch-Site": "same-origin"}, 404),
            ({"Origin": closed.url}, 404),
            ({"Sec-Fetch-Site": "cross-site"}, 403),
            ({"Sec-Fetch-Site": "same-site"}, 403),
            ({"Origin": "https://example.com"}, 403),
            ({"Origin": "null"}, 403),
        ):
            assert client.post("/v1/videos", json=body, headers=headers).status_code == expected, headers
        assert client.get("/v1/videos", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200
        assert client.delete("/v1/session").status_code == 204
        assert client.get("/v1/videos").status_code == 401


def test_foreign_pages_without_tokens(service):
    assert status(service) == 200
    for host in ("example.com", "example.com:80", "localhost.example.com", "127.0.0.1.example.com"):
        assert status(service, host=host) == 403
    for host in ("localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000"):
        assert status(service, host=host) == 200
    assert status(service, method="POST", origin="https://example.com") == 403
    assert status(service, method="POST", sec_fetch_site="cross-site") == 403
    assert status(service, method="POST", origin=service.url) == 422


def test_limit_per_client(closed, face_video, speech):
    closed.engine.runs.clear()
    headers = {"Authorization": f"Bearer {TOKEN}"}
    closed.client.headers.update(headers)
    job = {"face_id": closed.upload(face_video), "audio_id": closed.upload(speech)}
    statuses = [
        httpx.post(f"{closed.url}/v1/videos", json=job, headers={"X-API-Key": token}).status_code
        for token in (TOKEN, TOKEN, OTHER, OTHER)
    ]
    assert statuses == [200, 429, 200, 429]
    closed.engine.runs.set()


def test_options_of_access(monkeypatch, tmp_path):
    monkeypatch.delenv("WAV2LIP_TOKEN", raising=False)
    assert ServeOptions().tokens() == ServeOptions(host="::1").tokens() == ()
    for host in ("0.0.0.0", "::", "192.168.0.1", "example.com"):
        with pytest.raises(UsageError, match=f"--host {host}"):
            ServeOptions(host=host).tokens()
    monkeypatch.setenv("WAV2LIP_TOKEN", TOKEN)
    assert ServeOptions(host="0.0.0.0").tokens() == (TOKEN,)
    path = tmp_path / "token"
    for content in ("", "short", "\xe4" * 20, "\n\n"):
        path.write_text(content)
        with pytest.raises(UsageError, match="--token_file"):
            ServeOptions(token_file=str(path)).tokens()
    with pytest.raises(UsageError, match="none"):
        ServeOptions(token_file=str(tmp_path / "none")).tokens()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", 70000), ("max_upload", "0"), ("max_upload", "2 apples"), ("keep", "soon"), ("keep", "0h"),
        ("max_seconds", 0), ("max_pixels", 0), ("max_queue", 0), ("max_per_client", 0), ("timeout", -1),
        ("disk_floor", ""), ("checkpoints", "/nowhere"), ("webhook_hosts", ("a.example",)),
    ],
)  # fmt: skip
def test_option_out_of_range(name, value):
    with pytest.raises(UsageError, match=f"--{name}"):
        ServeOptions(**{name: value})


def test_sizes_and_times():
    options = ServeOptions(max_upload="1.5 GiB", disk_floor="20mb", keep="7d")
    assert (options.upload_bytes, options.floor_bytes) == (3 << 29, 20_000_000)
    assert options.keep_seconds == 7 * 86400
