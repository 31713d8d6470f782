"""Files from allowed hosts, and webhooks: only by https, to listed hosts, at public addresses."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import shutil
import socket
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import sleep, time

import pytest

from support.service import running_service
from wav2lip_npu.errors import MediaError, UsageError, Wav2LipError
from wav2lip_npu.serve import outgoing, remote_files, webhooks
from wav2lip_npu.serve.outgoing import allowed_target
from wav2lip_npu.serve.remote_files import fetch
from wav2lip_npu.serve.uploads import UploadLimits

SECRET = "a secret of webhooks"


class Answers(BaseHTTPRequestHandler):
    """Serves the files of `server.files`, and records webhooks, which fail `server.failures` times."""

    def do_GET(self):
        content = self.server.files.get(self.path)
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            content = b""
        else:
            self.send_response(404 if content is None else 200)
        if self.path == "/chunked":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content))
            return
        self.send_header("Content-Length", str(len(content or b"") + self.server.missing))
        self.end_headers()
        if not self.server.pause:
            self.wfile.write(content or b"")
            return
        with contextlib.suppress(OSError):  # nobody waits for the rest
            for byte in content:
                self.wfile.write(bytes([byte]))
                sleep(self.server.pause)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.calls.append((self.headers["X-Webhook-Signature"], body))
        self.send_response(500 if len(self.server.calls) <= self.server.failures else 204)
        self.end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A key and a certificate for 127.0.0.1, which this process trusts."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate of the test, is not installed")
    folder = tmp_path_factory.mktemp("certificate")
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=test -days 2".split()
    words += ["-addext", "subjectAltName=IP:127.0.0.1,DNS:media.example"]
    subprocess.run(
        ["openssl", *words, "-keyout", "key", "-out", "cert"], cwd=folder, check=True, capture_output=True
    )
    return folder


@pytest.fixture
def host(certificate, monkeypatch):
    """A server of files that also receives webhooks, at `host.name`."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert", certificate / "key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.files, server.calls, server.failures, server.missing, server.pause = {}, [], 0, 0, 0
    server.name = f"127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def limits(tmp_path):
    return UploadLimits(new_path=lambda: tmp_path / "upload", max_bytes=1000, floor_bytes=1)


@pytest.mark.parametrize(
    "url",
    [
        "http://a.example/x", "file:///etc/passwd", "https://b.example/x", "https://a.example:8443/x",
        "https://user@a.example/x", "https://a.example.b.example/x", "https://a.example\\@b.example/", "//a.example/x",
        "https://a.example/x y", "https://a.example:99999/", "https://[::1/", "https://\u0430.example/", "",
        "https://a.example/\r\nX: y",
    ],
)  # fmt: skip
def test_address_that_is_not_allowed(url):
    with pytest.raises(UsageError, match="face_url"):
        allowed_target(url, ["a.example", "c.example:8443"], "face_url", "--allow_urls")


def test_allowed_address():
    target = allowed_target("https://A.example/a/b?c=d#e", ["a.example"], "face_url", "--allow_urls")
    assert (target.host, target.port, target.path) == ("a.example", 443, "/a/b?c=d")
    assert allowed_target("https://c.example:8443", ["c.example:8443"], "x", "y").path == "/"


@pytest.mark.parametrize(
    ("address", "is_public"),
    [
        ("93.184.216.34", True), ("2606:4700::1111", True), ("127.0.0.1", False), ("10.1.2.3", False),
        ("169.254.169.254", False), ("192.168.0.1", False), ("100.64.0.1", False), ("0.0.0.0", False), ("::1", False),
        ("fe80::1%eth0", False), ("fc00::1", False), ("::ffff:10.0.0.1", False), ("64:ff9b::a00:1", False),
        ("2002:a00:1::", False), ("224.0.0.1", False),
    ],
)  # fmt: skip
def test_public_address(address, is_public, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", (address, 443))])
    if is_public:
        assert outgoing._public_address("a.example", 443) == address
    else:
        with pytest.raises(OSError, match="a.example"):
            outgoing._public_address("a.example", 443)


def test_fetch(host, limits):
    host.files = {"/a/b%20c.wav": b"content"}
    url = f"https://{host.name}/to//a/b%20c.wav"
    upload = fetch(url, [host.name], "audio_url", limits)
    assert (upload.name, upload.bytes, upload.path.read_bytes()) == ("b c.wav", 7, b"content")
    assert upload.sha256 == hashlib.sha256(b"content").hexdigest()


def test_fetch_of_chunks(host, limits):
    host.files = {"/chunked": b"content"}
    assert fetch(f"https://{host.name}/chunked", [host.name], "audio_url", limits).bytes == 7


@pytest.mark.parametrize(("missing", "pause", "reason"), [(1, 0, "ended early"), (0, 0.1, "did not arrive")])
def test_fetch_that_fails(host, limits, monkeypatch, missing, pause, reason):
    monkeypatch.setattr(remote_files, "_TOTAL_S", 0.2)
    host.files, host.missing, host.pause = {"/a.wav": b"content"}, missing, pause
    with pytest.raises(MediaError, match=reason):
        fetch(f"https://{host.name}/a.wav", [host.name], "audio_url", limits)
    assert not limits.new_path().exists()


@pytest.mark.parametrize(
    "path",
    [
        "/none",
        "/large",
        "/to/https://media.example/x",
        "/to/http://127.0.0.1/x",
        "/to/" * 5 + "/a",
        "/to/file:///a",
    ],
)
def test_fetch_that_is_refused(host, limits, path):
    host.files = {"/a": b"1", "/large": bytes(1001)}
    with pytest.raises(Wav2LipError):
        fetch(f"https://{host.name}{path}", [host.name], "face_url", limits)
    assert not limits.new_path().exists()


def test_name_with_a_private_address_is_not_called(host, limits):
    """The allowed name leads to this machine, which the operator has not listed."""
    port = host.server_port
    with pytest.raises(Wav2LipError, match="public"):
        fetch(f"https://localhost:{port}/a", [f"localhost:{port}"], "face_url", limits)


def test_certificate_is_checked(host, limits, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(Wav2LipError, match="(?i)certificate"):
        fetch(f"https://{host.name}/a", [host.name], "face_url", limits)


def test_job_with_addresses_and_a_webhook(host, tmp_path, face_video, speech, monkeypatch):
    host.files = {"/face.mp4": face_video.read_bytes(), "/speech.wav": speech.read_bytes()}
    host.failures = 1
    monkeypatch.setattr(webhooks, "_FIRST_DELAY_S", 0)
    (tmp_path / "secret").write_text(SECRET)
    options = {"webhook_secret_file": str(tmp_path / "secret"), "webhook_hosts": (host.name,)}
    with running_service(tmp_path / "data", face_video, allow_urls=(host.name,), **options) as service:
        url = f"https://{host.name}"
        job = {
            "face_url": f"{url}/face.mp4",
            "audio_url": f"{url}/speech.wav",
            "webhook_url": f"{url}/hook?a=b",
        }
        answer = service.client.post("/v1/videos", json=job)
        assert answer.status_code == 200, answer.text
        video = service.wait(answer.json()["id"])
        assert service.client.get(f"/v1/files/{video['face_id']}").json()["filename"] == "face.mp4"
        while len(host.calls) < 2:
            sleep(0.02)
        refused = service.client.post("/v1/videos", json={**job, "webhook_url": "https://a.example/"})
        assert "--webhook_hosts" in refused.json()["detail"]
        assert not list((service.store.folder / "uploads").iterdir())
    (header, body), _ = host.calls
    event = json.loads(body)
    assert (event["type"], event["data"]["id"]) == ("video.completed", video["id"])
    seconds, digest = header.removeprefix("t=").split(",v1=")
    assert abs(int(seconds) - time()) < 600
    assert digest == hmac.new(SECRET.encode(), f"{seconds}.".encode() + body, "sha256").hexdigest()


def test_webhook_is_tried_five_times(host, service, job):
    host.failures = 99
    calls = webhooks.Webhooks(service.store, [host.name], SECRET.encode())
    video = service.client.post("/v1/videos", json=job).json()
    with service.store.database.transaction() as connection:
        row = video["id"], f"https://{host.name}/"
        connection.execute("INSERT INTO webhooks (video_id, url) VALUES (?, ?)", row)
    service.wait(video["id"])
    now = time()
    made = [calls.deliver(now + seconds) for seconds in (0, 9, 11, 50, 60, 300, 1000, 2000, 5000)]
    assert made == [1, 0, 1, 0, 1, 1, 1, 0, 0] and len(host.calls) == webhooks.MAX_TRIES
