"""docker/Dockerfile.ascend: compatible releases, existing files, and install steps that run."""

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

from support.dockerfiles import commands, instructions
from wav2lip_npu.ascend import installation

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "ascend.md").read_text()
DOCKERFILE = (ROOT / "docker" / "Dockerfile.ascend").read_text()


def test_releases_are_compatible():
    defaults = dict(step.text.split("=", 1) for step in instructions(DOCKERFILE) if step.name == "ARG")
    assert installation.Release(defaults["TORCH_NPU"], defaults["CANN"], "3.10-3.14") in installation.RELEASES
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    assert (
        f"torch=={defaults['TORCH']}" in constraints and f"torch-npu=={defaults['TORCH_NPU']}" in constraints
    )
    assert re.search(rf"`910b`.*\n(.*\n)*.*cann:{defaults['CANN']}-{defaults['CHIP']}-ubuntu22.04", GUIDE)
    assert f"-py{defaults['PYTHON']}`" in GUIDE


def test_copied_files_exist_and_are_not_ignored():
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]

    def is_included(name: str) -> bool:
        included = True
        for pattern in patterns:
            top = name.split("/")[0]
            if fnmatch.fnmatch(name, pattern.removeprefix("!")) or pattern == f"!{top}":
                included = pattern.startswith("!")
        return included

    copied = [
        word for step in instructions(DOCKERFILE) if step.name == "COPY" for word in step.text.split()[:-1]
    ]
    assert len(copied) >= 6
    for name in copied:
        assert (ROOT / name).exists() and is_included(name), name
    assert not is_included("tests") and not is_included(".git") and not is_included("checkpoints")
    assert not is_included("wav2lip_npu/__pycache__")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_install_steps_run(tmp_path):
    """Run the `pip` steps of the Dockerfile in a virtual environment, then its command without CANN."""
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
    for step in instructions(DOCKERFILE):
        if step.name == "ARG" and "=" in step.text:
            name, _, value = step.text.partition("=")
            variables.setdefault(name, value)
        if step.name == "COPY":
            *names, target = step.text.split()
            for name in names:
                to = source / target / Path(name).name if target.endswith("/") else source / target
                to.parent.mkdir(parents=True, exist_ok=True)
                (shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile)(
                    ROOT / name, to, **({"dirs_exist_ok": True} if (ROOT / name).is_dir() else {})
                )
        programs = [Path(words[0]).name for words in commands(step.text)] if step.name == "RUN" else []
        if "pip" in programs or "venv" in step.text:
            text = step.text.replace("/opt/wav2lip", str(home)).replace('--index-url "${TORCH_INDEX}"', "")
            text = text.replace("python3 -m venv", f"{sys.executable} -m venv")
            begun = time.monotonic()
            subprocess.run(["bash", "-o", "pipefail", "-c", text], cwd=source, env=variables, check=True)
            took[step.line] = round(time.monotonic() - begun, 1)
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
