"""Live streams of the service: REST, WebSockets, limits, and what ends them. One live process for all tests."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest

from support.faces import face_frames
from support.service import RunningService, running_service
from wav2lip_npu.media.video_writer import write_video


@pytest.fixture(scope="module")
def face(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a second of a face that the real detector finds."""
    path = tmp_path_factory.mktemp("face") / "face.mp4"
    write_video(face_frames(12), path, fps=Fraction(25))
    return path


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, face: Path) -> Iterator[RunningService]:
    """A service whose device may hold four streams."""
    options = {"devices": ("cpu",), "max_streams": 4, "max_streams_per_client": 3}
    with running_service(tmp_path_factory.mktemp("live"), face, **options) as running:
        yield running


def opened(live: RunningService, face: Path, **values) -> dict:
    answer = live.client.post("/v1/streams", json={"face_id": live.upload(face), **values})
    assert answer.status_code == 200, answer.text
    return answer.json()


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
        ({"unknown": 1}, 422, "options", "unknown"),
    ],
)
def test_refusals_name_the_value(live, face, values, status, code, named):
    body = {"face_id": live.upload(face), **values}
    answer = live.client.post("/v1/streams", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert named in answer.json()["detail"]
