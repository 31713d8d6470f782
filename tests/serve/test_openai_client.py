"""The official client of OpenAI's videos API drives a job."""

from __future__ import annotations

import openai
import pytest

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning"
)  # the client's own, about OpenAI's models


@pytest.fixture
def client(service):
    with openai.OpenAI(api_key="any", base_url=f"{service.url}/v1", max_retries=0) as client:
        yield client


def test_whole_job(client, service, face_video, speech, tmp_path):
    with open(speech, "rb") as audio:
        audio_id = client.files.create(file=audio, purpose="user_data").id
    with open(face_video, "rb") as face:
        video = client.videos.create_and_poll(
            prompt="", input_reference=face, model="starter", extra_body={"audio_id": audio_id, "crf": 30},
            poll_interval_ms=20,
        )  # fmt: skip
    assert (video.status, video.progress, video.size) == ("completed", 100, "320x240")
    client.videos.download_content(video.id).write_to_file(tmp_path / "out.mp4")
    assert (tmp_path / "out.mp4").read_bytes() == face_video.read_bytes()
    assert client.videos.download_content(video.id, variant="thumbnail").content[:2] == b"\xff\xd8"
    assert video.id in [listed.id for listed in client.videos.list(limit=1)]
    assert client.videos.delete(video.id).deleted
    with pytest.raises(openai.NotFoundError, match=video.id):
        client.videos.retrieve(video.id)


def test_job_of_uploaded_files(client, service, job):
    video = client.videos.create(prompt="ignored", extra_body={**job, "options": '{"blend": "hard"}'})
    assert service.wait(video.id)["options"] == {"blend": "hard"}
    assert client.videos.retrieve(video.id).status == "completed"


def test_errors(client, job):
    with pytest.raises(openai.UnprocessableEntityError, match="--crf 99"):
        client.videos.create(prompt="", extra_body={**job, "crf": 99})
    with pytest.raises(openai.UnprocessableEntityError, match="seconds"):
        client.videos.create(prompt="", seconds="4", extra_body=job)
