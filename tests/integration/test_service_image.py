"""docker/Dockerfile, the systemd unit and the Kubernetes manifest of the service."""

from __future__ import annotations

import configparser
import dataclasses
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml

from support.dockerfiles import copied_files, instructions, is_sent_to_builder, run_install_steps
from support.nodes import free_port
from wav2lip_npu.serve.options import ServeOptions

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()
STEPS = instructions(DOCKERFILE)
MANIFEST = list(yaml.safe_load_all((ROOT / "docker" / "kubernetes.yaml").read_text()))


def last(name: str) -> str:
    return next(step.text for step in reversed(STEPS) if step.name == name)


def options_of(words: list[str]) -> dict[str, str]:
    """Return the options of a `serve` command, all of which exist."""
    assert words[0] == "serve"
    given = dict(zip(words[1::2], words[2::2], strict=True))
    assert {f"--{field.name}" for field in dataclasses.fields(ServeOptions)} >= set(given)
    return given


def test_image_serves_with_a_token_as_a_user_without_rights():
    serve = options_of(json.loads(last("CMD")))
    assert serve["--host"] == "0.0.0.0" and serve["--port"] == last("EXPOSE") == "8000"
    assert (
        serve["--token_file"] in DOCKERFILE.partition("FROM")[0]
    )  # the command that runs it mounts the token
    assert last("USER") == "1000:1000"
    for name in ("--data", "--checkpoints"):
        assert f" {serve[name]}" in last("RUN")
    probe = json.loads(last("HEALTHCHECK").partition("CMD ")[2])
    assert probe[0] == "python" and f":{serve['--port']}/healthz" in probe[2]
    assert not re.search(r"\b(curl|wget)\b", DOCKERFILE)
    torch = next(step.text for step in STEPS if step.name == "ARG" and step.text.startswith("TORCH="))
    assert torch.replace("TORCH=", "torch==") in (ROOT / "constraints.txt").read_text().splitlines()


def test_copied_files_exist_and_are_not_ignored():
    for name in copied_files(DOCKERFILE):
        assert (ROOT / name).exists() and is_sent_to_builder(name), name


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.ascend"])
def test_hadolint_finds_nothing(name):
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, ROOT / "docker" / name], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_unit_gives_the_server_its_token_and_folder():
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment]
    unit.read(ROOT / "docker" / "wav2lip-npu.service")
    service = unit["Service"]
    program, *words = shlex.split(service["ExecStart"])
    serve = options_of(words)
    assert Path(program).name == "wav2lip-npu" and Path(program).is_absolute()
    credential = service["LoadCredential"].partition(":")[0]
    assert serve["--token_file"] == f"${{CREDENTIALS_DIRECTORY}}/{credential}"
    assert serve["--data"] == "${STATE_DIRECTORY}" and "/" not in service["StateDirectory"]
    assert service["DynamicUser"] == "yes" and service["KillMode"] == "mixed"


def test_manifest_fits_the_image():
    claim, deployment, service = MANIFEST
    assert [item["kind"] for item in MANIFEST] == ["PersistentVolumeClaim", "Deployment", "Service"]
    pod = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    labels = pod["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels == service["spec"]["selector"]
    assert deployment["spec"]["strategy"]["type"] == "Recreate" and deployment["spec"]["replicas"] == 1
    (port,) = container["ports"]
    assert str(port["containerPort"]) == last("EXPOSE")
    assert service["spec"]["ports"][0]["targetPort"] == port["name"]
    paths = {name: container[name]["httpGet"]["path"] for name in container if name.endswith("Probe")}
    assert paths == {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
    assert all(container[name]["httpGet"]["port"] == port["name"] for name in paths)
    volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts.keys() == volumes
    serve = options_of(json.loads(last("CMD")))
    assert mounts["data"] == serve["--data"] and mounts["token"] == serve["--token_file"]
    assert pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert f"{pod['spec']['securityContext']['runAsUser']}:" in last("USER")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_install_steps_run_and_the_image_serves(tmp_path):
    """Run the `pip` steps in a virtual environment; then the command of the image, its health check, and a client."""
    variables, ran = run_install_steps(DOCKERFILE, tmp_path, '--index-url "${CPU_INDEX}"')
    assert ran == 3
    port, token = free_port(), "a token of more than sixteen letters"
    (tmp_path / "token.txt").write_text(token)
    for folder in ("data", "checkpoints"):
        (tmp_path / folder).mkdir()
    given = options_of(json.loads(last("CMD"))) | {
        "--host": "127.0.0.1",
        "--port": str(port),
        "--data": str(tmp_path / "data"),
        "--checkpoints": str(tmp_path / "checkpoints"),
        "--token_file": str(tmp_path / "token.txt"),
    }
    words = ["wav2lip-npu", "serve", *(word for pair in given.items() for word in pair)]
    server = subprocess.Popen(words, cwd=tmp_path / "data", env=variables)
    try:
        wait_until_ready(f"http://127.0.0.1:{port}/readyz", server)
        probe = [
            word.replace(":8000", f":{port}") for word in json.loads(last("HEALTHCHECK").partition("CMD ")[2])
        ]
        assert subprocess.run(probe, env=variables).returncode == 0
        videos = urllib.request.Request(f"http://127.0.0.1:{port}/v1/videos")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(videos)
        videos.add_header("Authorization", f"Bearer {token}")
        with urllib.request.urlopen(videos) as answer:
            assert json.load(answer)["data"] == []
    finally:
        server.terminate()
        assert server.wait(40) in (0, 143)
    (tmp_path / "token.txt").unlink()
    refused = subprocess.run(words, env=variables, capture_output=True, text=True)
    assert refused.returncode == 2 and "token.txt" in refused.stderr


def wait_until_ready(url: str, server: subprocess.Popen) -> None:
    for _ in range(600):
        assert server.poll() is None
        try:
            urllib.request.urlopen(url)
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"{url} never answered")
