"""The commands of docs/serve.md run, and the page names every endpoint and option."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from wav2lip_npu.serve.problems import _CODES, _OF_ERRORS

GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "serve.md").read_text()


def blocks(language: str) -> str:
    return "\n".join(re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL))


@pytest.fixture
def folder(tmp_path, face_video, speech):
    """A folder with the files that the guide names."""
    shutil.copy(face_video, tmp_path / "talk.mp4")
    shutil.copy(speech, tmp_path / "speech.wav")
    return tmp_path


def test_commands(service, folder):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    script = "set -euo pipefail\n" + blocks("bash").replace(
        "localhost:8000", service.url.removeprefix("http://")
    )
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    result = subprocess.run(
        ["bash", "-c", script], cwd=folder, capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert (folder / "dubbed.mp4").read_bytes() == (folder / "talk.mp4").read_bytes()
    assert (folder / "beginning.bin").stat().st_size == 1000 and (folder / "frame.jpg").stat().st_size
    assert (
        "event: done" in result.stdout and '"confidence"' in result.stdout and "wav2lip_jobs" in result.stdout
    )


@pytest.mark.filterwarnings("ignore")  # the client warns of OpenAI's own models
def test_python(service, folder, monkeypatch):
    monkeypatch.chdir(folder)
    exec(blocks("python").replace("http://127.0.0.1:8000", service.url), {})
    assert (folder / "dubbed.mp4").read_bytes() == (folder / "talk.mp4").read_bytes()


def test_endpoints_and_codes(service):
    for path, operations in service.app.openapi()["paths"].items():
        for method in operations:
            row = rf"^\|.*\b{method.upper()}\b.*{re.escape(re.sub('{.*?}', '{id}', path))}`"
            assert re.search(row, GUIDE, re.MULTILINE), f"{method} {path}"
    codes = set(re.findall(r"`([a-z_]+)`", GUIDE.partition("| code | meaning |")[2].partition("`error`")[0]))
    named = {code for _, _, code in _OF_ERRORS} | {
        _CODES[status] for status in (401, 403, 404, 409, 413, 429, 503, 507)
    }
    assert named <= codes
