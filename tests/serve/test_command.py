"""The `serve` command: starts, prints its address, ends on a signal; refuses what it cannot serve."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

import httpx
import pytest

from wav2lip_npu.cli import main
from wav2lip_npu.cli import serve as serve_command
from wav2lip_npu.media import video_reader


def serve(*words):
    # A shell starts background commands with SIGINT ignored. That may apply to the test, but not to the child.
    return subprocess.Popen(
        [sys.executable, "-m", "wav2lip_npu", "serve", "--port", "0", "--devices", "cpu", *map(str, words)],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def address_of(process):
    """Return the address that a service prints."""
    lines = []
    for line in process.stderr:
        lines.append(line)
        if found := re.search(r"http://[\w.:\[\]]+/", line):
            return found[0]
    raise AssertionError("".join(lines))


@pytest.mark.alone
@pytest.mark.parametrize(("number", "host"), [
    (signal.SIGTERM, "127.0.0.1"), pytest.param(signal.SIGINT, "::1", marks=pytest.mark.slow),
])  # fmt: skip
def test_signal_ends_the_service_and_its_streams(tmp_path, number, host, speech, face_video):
    process = serve("--data", tmp_path / "data", "--host", host)
    try:
        url = address_of(process)
        with open(face_video, "rb") as face, open(speech, "rb") as audio:
            job = httpx.post(f"{url}v1/videos", files={"face": face, "audio": audio}, timeout=60).json()
        with httpx.stream("GET", f"{url}v1/videos/{job['id']}/events", timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            process.send_signal(number)
            list(lines)
        _, text = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, text
    assert "Traceback" not in text
    again = serve("--data", tmp_path / "data")
    try:
        url = f"{address_of(again)}v1/videos/{job['id']}"
        assert httpx.get(url).json()["status"] in ("queued", "in_progress")
        if number == signal.SIGINT:
            with httpx.stream("GET", f"{url}/events", timeout=60) as answer:
                assert "event: done" in list(answer.iter_lines())
            report = httpx.get(f"{url}/content", params={"variant": "report"}).json()
            assert (report["frames"], report["face"], report["check"]["offset"]) == (
                15,
                face_video.name,
                None,
            )
            (tmp_path / "out.mp4").write_bytes(httpx.get(f"{url}/content").content)
            assert len(list(video_reader.read_frames(tmp_path / "out.mp4"))) == 15
        assert main.main(["serve", "--data", str(tmp_path / "data"), "--port", "0"]) == 2
    finally:
        again.kill()
        again.communicate()


def refused(capsys, *words):
    assert main.main(["serve", *map(str, words)]) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    return line


def test_address_that_cannot_be_used(tmp_path, capsys):
    data = ("--data", tmp_path / "data")
    assert "--host 203.0.113.7" in refused(capsys, *data, "--host", "203.0.113.7")
    assert "--host nowhere.invalid" in refused(capsys, *data, "--host", "nowhere.invalid")
    assert "--max_upload" in refused(capsys, *data, "--max_upload", "many")
    token = ("--token_file", tmp_path / "token")
    assert str(tmp_path / "token") in refused(capsys, *data, *token)
    (tmp_path / "token").write_text("0123456789abcdef")
    assert "--host 203.0.113.7" in refused(capsys, *data, *token, "--host", "203.0.113.7")
    assert not (tmp_path / "data").exists()


def test_missing_packages(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(serve_command, "_NEEDED", ("fastapi", "a_package_that_is_not_installed"))
    assert "pip install 'wav2lip-npu[serve]'" in refused(capsys, "--data", tmp_path / "data")
