"""One service for all tests of a process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.service import RunningService, running_service


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, face_video: Path) -> Iterator[RunningService]:
    """A service on this machine without a token, whose engine copies the face video."""
    with running_service(tmp_path_factory.mktemp("service"), face_video) as running:
        yield running


@pytest.fixture
def job(service: RunningService, face_video: Path, speech: Path) -> dict[str, str]:
    """IDs of an uploaded face and audio, as fields of a job."""
    return {"face_id": service.upload(face_video), "audio_id": service.upload(speech)}


@pytest.fixture
def stopped(service: RunningService) -> Iterator[None]:
    """Jobs stay in the queue during the test."""
    service.engine.runs.clear()
    yield
    service.engine.runs.set()
