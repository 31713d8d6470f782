"""Health, metrics, models, the documentation of the API, and the headers of every response."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from support.service import running_service
from wav2lip_npu.serve.job_requests import NAMES
from wav2lip_npu.serve.schemas import option_schemas


def test_health_and_readiness(service):
    assert service.client.get("/healthz").json() == {"status": "ok"}
    assert service.client.get("/readyz").json() == {"status": "ready"}


def test_metrics(service):
    service.client.get("/v1/videos/none")
    text = service.client.get("/metrics").text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert all(
        re.fullmatch(r"[a-z0-9_]+(\{.*\})?", name) and float(value) >= 0 for name, value in values.items()
    )
    name = 'wav2lip_http_requests_total{method="GET",route="/v1/videos/{video_id}",status="404"}'
    assert float(values[name]) >= 1
    assert 'wav2lip_workers{worker="cpu",state="ready"}' in values
    for name in (
        "jobs",
        "queue_age_seconds",
        "disk_free_bytes",
        "resident_memory_bytes",
        "upload_bytes_total",
    ):
        assert f"# TYPE wav2lip_{name} " in text


def test_models(tmp_path, face_video, tiny_checkpoint):
    with running_service(tmp_path, face_video, checkpoints=str(tiny_checkpoint.parent)) as service:
        models = {model["id"]: model for model in service.client.get("/v1/models").json()["data"]}
        assert models["tiny.pth"]["bytes"] == tiny_checkpoint.stat().st_size
        assert len(models["tiny.pth"]["sha256"]) == 64 and "starter" in models


def test_faces_and_previews(service, job):
    faces = service.client.post("/v1/faces", json={"file_id": job["face_id"], "time": 0.5})
    assert faces.json()["faces"][0]["face_select"] == "2,3"
    refused = service.client.post("/v1/faces", json={"file_id": job["face_id"], "time": 101})
    assert (refused.status_code, refused.json()["code"]) == (422, "no_face")
    picture = service.client.post("/v1/previews", json={**job, "time": 0.25, "options": {"crf": 1}})
    assert (picture.headers["content-type"], picture.headers["x-time"]) == ("image/jpeg", "0.250")
    for fields, expected in (({"options": {"crf": 99}}, 422), ({"face_id": "x"}, 404), ({"time": -1}, 422),
                             ({"model": "x"}, 422), ({"audio_id": job["face_id"]}, 422)):  # fmt: skip
        assert service.client.post("/v1/previews", json={**job, **fields}).status_code == expected


class Sources(HTMLParser):
    """Addresses that a page loads, and inline scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.inline: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.loaded += [values[name] for name in ("src", "href") if name in values and tag != "a"]
        self.inline += [name for name in values if name.startswith("on") or name == "style"]
        if tag == "style" or (tag == "script" and "src" not in values):
            self.inline.append(tag)


def test_no_option_of_a_job_names_a_file():
    """A new text option must be refused in `job_requests`, or be added here because it is not a file."""
    texts = {
        name
        for name, schema in option_schemas().items()
        if schema["type"] == "string" and "enum" not in schema
    }
    assert texts == {"face_select", "skip"}


def test_documentation_works_offline(service):
    document = service.client.get("/openapi.json").json()
    answer = service.client.get("/docs")
    sources = Sources(answer.text)
    assert sources.loaded == ["docs.css", "page/icon.svg"] and not sources.inline
    assert service.client.get("/docs.css").headers["content-type"].startswith("text/css")
    for path in document["paths"]:
        assert path in answer.text
    fields = document["paths"]["/v1/videos"]["post"]["requestBody"]["content"]["multipart/form-data"][
        "schema"
    ]
    assert set(NAMES) < set(fields["properties"]) and "crf" in answer.text
    assert not {"report", "voice", "checkpoint_path", "occlusion_mask", "outfile"} & set(fields["properties"])


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/v1/videos", "/nowhere", "/page/../app.py", "/page/%2e%2e%2fapp.py"]
)
def test_headers_of_every_response(service, path):
    answer = service.client.get(path)
    assert answer.headers["content-security-policy"].startswith("default-src 'self'")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert (answer.status_code == 404) == ("nowhere" in path or "page" in path)


def test_page_is_cached_by_its_content(service):
    first = service.client.get("/")
    assert first.headers["content-type"].startswith("text/html")
    assert service.client.get("/", headers={"If-None-Match": first.headers["etag"]}).status_code == 304
    for address in Sources(first.text).loaded:
        assert service.client.get(f"/{address}").status_code == 200, address


def test_unknown_method_and_address(service):
    for method, path, expected in (("PUT", "/v1/videos", 405), ("GET", "/v1/nothing", 404)):
        answer = service.client.request(method, path)
        assert answer.status_code == answer.json()["status"] == expected
        assert answer.headers["content-type"] == "application/problem+json"


def test_http_process_loads_no_torch():
    code = (
        "import sys, wav2lip_npu.serve.server; sys.exit('torch' in sys.modules or 'librosa' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
