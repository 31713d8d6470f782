"""Uploads: stored by content, counted while they arrive, and probed in a process with limits."""

from __future__ import annotations

import socket

import pytest

from support.faces import write_audio
from support.service import running_service


def upload(service, content, name="a.mp4", **fields):
    return service.client.post("/v1/files", files={"file": (name, content)}, data=fields)


def test_file_is_stored_once(service, face_video):
    content = face_video.read_bytes()
    first = upload(service, content, "C:\\videos\\one.mp4", purpose="vision").json()
    again = upload(service, content, "two.mp4").json()
    assert first["id"] == again["id"] == f"file_{first['id'][5:29]}"
    assert (first["filename"], again["filename"]) == ("one.mp4", "two.mp4")
    expected = {"kind": "video", "width": 320, "height": 240, "fps": 25, "seconds": 2, "has_audio": False}
    assert expected.items() <= again["media"].items()
    got = service.client.get(f"/v1/files/{first['id']}/content", headers={"Range": "bytes=0-9"})
    assert (got.status_code, got.content) == (206, content[:10])
    assert got.headers["content-type"] == "video/mp4" and "sandbox" in got.headers["content-security-policy"]


def test_audio_image_and_envelope(service, speech, tmp_path):
    audio = upload(service, speech.read_bytes(), "a.wav").json()
    assert audio["media"]["kind"] == "audio" and audio["media"]["seconds"] == pytest.approx(0.6)
    assert audio["media"]["type"] == "audio/wav"
    envelope = service.client.get(f"/v1/files/{audio['id']}/envelope", params={"points": 5}).json()
    assert len(envelope["points"]) == 5
    from PIL import Image

    Image.new("RGB", (50, 40)).save(tmp_path / "a.png")
    image = upload(service, (tmp_path / "a.png").read_bytes(), "a.png").json()["media"]
    assert (image["kind"], image["width"], image["height"], image["type"]) == ("image", 50, 40, "image/png")
    assert (image["seconds"], image["fps"], image["has_audio"]) == (None, None, False)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no media",
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:1/a.ts\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><image href="/etc/passwd"/></svg>',
        b"<MPD><BaseURL>http://127.0.0.1:1/</BaseURL></MPD>",
    ],
)
def test_other_content_is_refused_without_a_path(service, content):
    answer = upload(service, content, "a/fake.mp4")
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "media")
    assert "fake.mp4" in problem["detail"] and "/" not in problem["detail"]
    assert list((service.store.folder / "uploads").iterdir()) == []


def test_deleted_and_used_files(service, job, speech, tmp_path):
    service.engine.runs.clear()
    other = write_audio(tmp_path / "other.wav", 0.3)
    file_id = upload(service, other.read_bytes(), "other.wav").json()["id"]
    video = service.client.post("/v1/videos", json={**job, "audio_id": file_id}).json()
    assert service.client.delete(f"/v1/files/{file_id}").json()["code"] == "conflict"
    service.client.delete(f"/v1/videos/{video['id']}")
    assert service.client.delete(f"/v1/files/{file_id}").json()["deleted"]
    service.engine.runs.set()
    for answer in (
        service.client.delete(f"/v1/files/{file_id}"),
        service.client.get(f"/v1/files/{file_id}"),
        service.client.get(f"/v1/files/{file_id}/content"),
        service.client.get(f"/v1/files/{file_id}/envelope"),
    ):
        assert answer.status_code == 404


def test_names_as_browsers_write_them(service, speech):
    content = speech.read_bytes()
    head = 'Content-Disposition: form-data; name="file"; filename="{}"'
    for sent, name in (
        ("5%22 \u97f3 50%25.wav", '5" \u97f3 50%25.wav'),
        ("a%0D%0Ab.wav", r"a\r\nb.wav"),
        ("C:\\\\x\\\\b.wav", "b.wav"),
    ):
        body = b"--b\r\n" + head.format(sent).encode() + b"\r\n\r\n" + content + b"\r\n--b--\r\n"
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        stored = service.client.post("/v1/files", content=body, headers=headers).json()
        assert stored["filename"] == name
        shown = service.client.get(f"/v1/files/{stored['id']}/content").headers["content-disposition"]
        assert "\n" not in shown and shown.startswith("inline; ")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"--b\r\n", 400),
        (b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc', 400),
        (b"--b\r\nContent-Disposition: form-data\r\n\r\nabc\r\n--b--\r\n", 400),
        (b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nabc\r\n--b--\r\n', 422),
        (b"--b\r\nX: " + b"y" * 9999 + b"\r\n\r\nabc\r\n--b--\r\n", 400),
        (
            b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n'
            + b"y" * 70000
            + b"\r\n--b--\r\n",
            413,
        ),
        (b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\nabc\r\n--b--\r\n', 422),
    ],
)
def test_damaged_form(service, body, status):
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = service.client.post("/v1/files", content=body, headers=headers)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert service.client.post("/v1/files", content=body).status_code == 415


def test_too_many_parts(service):
    files = [("file", (f"{number}.wav", b"content")) for number in range(33)]
    assert service.client.post("/v1/files", files=files).status_code == 413
    assert service.client.post("/v1/files", files=files[:2]).status_code == 422
    assert (
        service.client.post(
            "/v1/files", files=files[:1], data=dict.fromkeys(map(str, range(200)))
        ).status_code
        == 413
    )
    assert list((service.store.folder / "uploads").iterdir()) == []


def test_closed_connection_leaves_no_file(service):
    host, port = service.url.removeprefix("http://").split(":")
    head = (
        "POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        '--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    )
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + bytes(2 << 20))
        while not list((service.store.folder / "uploads").iterdir()):
            pass
    while list((service.store.folder / "uploads").iterdir()):
        pass


def test_limits(tmp_path, face_video, speech):
    limits = {"max_upload": "100kB", "max_seconds": 1, "max_pixels": 320 * 240, "max_queue": 2}
    with running_service(tmp_path, face_video, **limits) as service:
        service.engine.runs.clear()
        given = service.client.get("/v1/limits").json()
        assert (given["max_upload"], given["max_seconds"], given["needs_token"]) == (100_000, 1, False)
        assert given["devices"] == ["cpu"]
        for content in (bytes(100_000), iter([bytes(50_000)] * 3)):
            headers = {"Content-Type": "multipart/form-data; boundary=b"}
            assert service.client.post("/v1/files", content=content, headers=headers).status_code in (
                400,
                413,
            )
        answer = upload(service, bytes(100_001))
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
        assert "2 s" in upload(service, face_video.read_bytes()).json()["detail"]
        from PIL import Image

        Image.new("RGB", (320, 241)).save(tmp_path / "a.png")
        assert "320x241" in upload(service, (tmp_path / "a.png").read_bytes(), "a.png").json()["detail"]
        Image.new("RGB", (320, 240)).save(tmp_path / "a.png")
        job = {"face_id": service.upload(tmp_path / "a.png"), "audio_id": service.upload(speech)}
        answers = [service.client.post("/v1/videos", json=job) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert int(answers[2].headers["retry-after"]) > 0
    with running_service(tmp_path / "full", face_video, disk_floor="1000TB") as service:
        assert upload(service, speech.read_bytes()).status_code == 507
        assert service.client.get("/readyz").status_code == 503
