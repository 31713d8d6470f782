"""Jobs over HTTP: create, watch, download, list, cancel, delete."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.faces import write_audio
from support.service import events_of
from wav2lip_npu.serve import events


def create(service, job, expected=200, headers=None, **fields):
    answer = service.client.post("/v1/videos", json={**job, **fields}, headers=headers)
    assert answer.status_code == expected, answer.text
    if expected != 200:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == expected
    return answer.json()


def test_job_of_a_form_with_files(service, face_video, speech):
    with open(face_video, "rb") as face, open(speech, "rb") as audio:
        files = {"face": ("../../etc/passwd", face), "audio": (speech.name, audio)}
        answer = service.client.post("/v1/videos", files=files, data={"crf": "30", "pads": "0 5 0 0"})
    assert answer.status_code == 200, answer.text
    video = answer.json()
    assert video["object"] == "video" and video["status"] in ("queued", "in_progress")
    assert video["options"] == {"crf": 30, "pads": [0, 5, 0, 0]}
    assert (video["seconds"], video["size"], video["model"]) == ("0.6", "320x240", "starter")
    done = service.wait(video["id"])
    assert done["progress"] == 100 and done["report"]["check"]["offset"] == 0
    assert service.client.get(f"/v1/files/{done['face_id']}").json()["filename"] == "passwd"


def test_content_with_ranges(service, job, face_video):
    video = service.wait(create(service, job)["id"])
    url = f"/v1/videos/{video['id']}/content"
    whole = service.client.get(url)
    assert whole.content == face_video.read_bytes()
    assert whole.headers["content-type"] == "video/mp4" and whole.headers["accept-ranges"] == "bytes"
    name = service.client.get(f"/v1/files/{job['face_id']}").json()["filename"]
    assert f"{Path(name).stem}-dubbed.mp4" in whole.headers["content-disposition"]
    part = service.client.get(url, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole.content[10:20])
    same = service.client.get(url, headers={"If-None-Match": whole.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")
    assert service.client.get(url, headers={"Range": "bytes=99999999-"}).status_code == 416
    head = service.client.head(url)
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", whole.headers["etag"])
    assert int(head.headers["content-length"]) == len(whole.content)
    assert service.client.get(url, params={"variant": "thumbnail"}).content[:2] == b"\xff\xd8"
    report = service.client.get(url, params={"variant": "report"})
    assert report.json() == video["report"] and report.headers["content-type"] == "application/json"
    same = {"If-None-Match": report.headers["etag"]}
    assert service.client.get(url, params={"variant": "report"}, headers=same).status_code == 304
    part = service.client.get(url, params={"variant": "report"}, headers={"Range": "bytes=0-1"})
    assert (part.status_code, part.content) == (206, report.content[:2])
    assert service.client.get(url, params={"variant": "other"}).status_code == 422


def test_events_until_the_end(service, job):
    video = create(service, job)
    with service.client.stream("GET", f"/v1/videos/{video['id']}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        found = list(events_of(answer.iter_lines()))
    kinds, numbers = [kind for kind, _, _ in found], [number for _, number, _ in found]
    assert kinds[-1] == "done" and set(kinds[:-1]) <= {"progress"}
    assert numbers == sorted(set(numbers))
    assert found[-1][2]["id"] == video["id"] and found[-1][2]["status"] == "completed"
    again = {"Last-Event-ID": str(numbers[-1])}
    assert service.client.get(f"/v1/videos/{video['id']}/events", headers=again).status_code == 204
    earlier = service.client.get(f"/v1/videos/{video['id']}/events", headers={"Last-Event-ID": "1"})
    assert [kind for kind, _, _ in events_of(iter(earlier.text.split("\n")))] == ["done"]


def test_events_of_a_deleted_job_end(service, job, stopped):
    video = create(service, job)
    with service.client.stream("GET", f"/v1/videos/{video['id']}/events") as answer:
        lines = answer.iter_lines()
        assert next(events_of(lines))[2]["queue_position"] == 1
        assert service.client.delete(f"/v1/videos/{video['id']}").json()["deleted"]
        ((kind, _, data),) = events_of(lines)
        assert (kind, data["id"], data["deleted"]) == ("deleted", video["id"], True)


def test_head_wherever_get_answers(service, job):
    video = service.wait(create(service, job)["id"])
    values = {"video_id": video["id"], "file_id": job["face_id"], "stream_id": "stream_0"}
    document = service.client.get("/openapi.json").json()
    paths = [path.format(**values) for path, operations in document["paths"].items() if "get" in operations]
    for path in (*paths, "/", "/page/page.js", "/docs"):
        head, get = service.client.head(path), service.client.get(path)
        assert (head.status_code, head.content) == (get.status_code, b""), path
        assert head.headers["content-type"] == get.headers["content-type"], path


def test_comments_keep_a_quiet_stream_open(service, job, stopped, monkeypatch):
    monkeypatch.setattr(events, "_COMMENT_S", 0.05)
    video = create(service, job)
    with service.client.stream("GET", f"/v1/videos/{video['id']}/events") as answer:
        assert next(line for line in answer.iter_lines() if line.startswith(":"))
    service.client.delete(f"/v1/videos/{video['id']}")


def test_failed_job_has_the_sentence_of_the_command(service, job):
    video = service.wait(create(service, job, crf=51)["id"], "failed")
    assert video["error"]["code"] == "no_face" and "face.mp4" in video["error"]["message"]
    answer = service.client.get(f"/v1/videos/{video['id']}/content")
    assert answer.status_code == 409 and "face.mp4" in answer.json()["detail"]


def test_cancel_and_delete(service, job, stopped):
    video = create(service, job)
    url = f"/v1/videos/{video['id']}"
    assert service.client.post(f"{url}/cancel").json()["status"] == "cancelled"
    assert service.client.post(f"{url}/cancel").status_code == 200
    assert service.client.delete(url).json() == {
        "id": video["id"],
        "object": "video.deleted",
        "deleted": True,
    }
    for method, path in (("GET", url), ("DELETE", url), ("POST", f"{url}/cancel"), ("GET", f"{url}/events")):
        answer = service.client.request(method, path)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_list_in_pages(service, job, stopped):
    ids = [create(service, job)["id"] for _ in range(3)]
    first = service.client.get("/v1/videos", params={"limit": 2}).json()
    assert [video["id"] for video in first["data"]] == ids[:0:-1] and first["has_more"]
    second = service.client.get("/v1/videos", params={"limit": 1, "after": first["last_id"]}).json()
    assert second["first_id"] == ids[0]
    waiting = service.client.get("/v1/videos", params={"status": "queued", "order": "asc"}).json()["data"]
    assert [video["id"] for video in waiting] == ids
    assert [video["queue_position"] for video in waiting] == [1, 2, 3]
    for name in ids:
        service.client.delete(f"/v1/videos/{name}")


def test_idempotency_key(service, job, stopped):
    headers = {"Idempotency-Key": "a key"}
    video = create(service, job, headers=headers, crf=20)
    assert create(service, job, headers=headers, options={"crf": 20})["id"] == video["id"]
    assert create(service, job, 409, headers=headers, crf=21)["code"] == "conflict"
    service.client.delete(f"/v1/videos/{video['id']}")
    for _ in range(2):
        problem = create(service, job, 410, headers=headers, crf=20)
        assert problem["code"] == "gone" and video["id"] in problem["detail"]


def test_idempotency_key_outlives_the_files(service, job, tmp_path, stopped):
    audio = write_audio(tmp_path / "short.wav", 0.25)
    with open(audio, "rb") as file:
        audio_id = service.client.post("/v1/files", files={"file": file}).json()["id"]
    key = {"headers": {"Idempotency-Key": "outlives"}, "audio_id": audio_id}
    video = create(service, job, **key)
    service.client.post(f"/v1/videos/{video['id']}/cancel")
    assert service.client.delete(f"/v1/files/{audio_id}").json()["deleted"]
    assert create(service, job, **key)["id"] == video["id"]
    assert create(service, job, 404, audio_id=audio_id)["code"] == "not_found"
    service.client.delete(f"/v1/videos/{video['id']}")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"crf": 99}, ["--crf 99"]),
        ({"blnd": "soft"}, ["blnd", "blend"]),
        ({"blend": "strange"}, ["blend", "strange"]),
        ({"options": "[]"}, ["options"]),
        ({"options": "{"}, ["options"]),
        ({"options": {"crf": 1}, "crf": 1}, ["crf"]),
        ({"voice": "/etc/passwd"}, ["voice"]),
        ({"occlusion_mask": "/etc/passwd"}, ["occlusion_mask"]),
        ({"checkpoint_path": "/etc/passwd"}, ["checkpoint_path"]),
        ({"report": "/tmp/x"}, ["report"]),
        ({"device": "cpu"}, ["device"]),
        ({"model": "/etc/passwd"}, ["/etc/passwd"]),
        ({"model": "../starter"}, ["../starter"]),
        ({"seconds": "4"}, ["seconds", "4"]),
        ({"face": "/etc/passwd", "face_id": ""}, ["/etc/passwd"]),
        ({"face_url": "https://example.com/a.mp4", "face_id": ""}, ["--allow_urls"]),
        ({"face": "x"}, ["face", "face_id"]),
        ({"audio_id": ""}, ["audio"]),
        ({"start": 7}, ["--start 7"]),
        ({"webhook_url": "https://example.com/"}, ["webhook_url"]),
    ],
)
def test_refused_fields(service, job, fields, words):
    detail = create(service, job, 422, **fields)["detail"]
    assert all(word in detail for word in words), detail
    assert "\n" not in detail


def test_refused_files(service, job):
    assert create(service, {**job, "face_id": job["audio_id"]}, 422)["code"] == "media"
    assert create(service, {**job, "audio_id": job["face_id"]}, 422)["code"] == "no_sound"
    assert "file_0" in create(service, {**job, "face_id": "file_0"}, 404)["detail"]


@pytest.mark.parametrize("body", [b"{", b"[]", b"1", b'{"a": ' * 9999, b"\xff"])
def test_damaged_json(service, body):
    answer = service.client.post("/v1/videos", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422) and answer.json()["detail"]
    assert service.client.post("/v1/videos", content=body).status_code == 415


def test_report_of_a_job_without_content(service, job, stopped):
    video = create(service, job, options=json.dumps({"blend": "hard"}))
    assert video["options"] == {"blend": "hard"}
    answer = service.client.get(f"/v1/videos/{video['id']}/content", params={"variant": "report"})
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    service.client.delete(f"/v1/videos/{video['id']}")
