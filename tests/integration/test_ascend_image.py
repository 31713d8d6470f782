"""docker/Dockerfile.ascend: compatible releases, existing files, and install steps that run."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from support.dockerfiles import copied_files, instructions, is_sent_to_builder, run_install_steps
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
    copied = list(copied_files(DOCKERFILE))
    assert len(copied) >= 6
    for name in copied:
        assert (ROOT / name).exists() and is_sent_to_builder(name), name
    assert not is_sent_to_builder("tests") and not is_sent_to_builder(".git")
    assert not is_sent_to_builder("checkpoints") and not is_sent_to_builder("wav2lip_npu/__pycache__")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_install_steps_run(tmp_path):
    """Run the `pip` steps of the Dockerfile in a virtual environment, then its command without CANN."""
    variables, ran = run_install_steps(DOCKERFILE, tmp_path, '--index-url "${TORCH_INDEX}"')
    assert ran == 3
    command = json.loads(instructions(DOCKERFILE)[-1].text)
    variables["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"
    options = {"cwd": tmp_path / "home", "env": variables, "text": True, "stdout": -1, "stderr": -2}
    done = subprocess.run(command, **options)
    assert done.returncode == 0, done.stdout
    assert "Ascend: plugin but no CANN; torch_npu 2.13.0" in done.stdout
    assert "opencv-python-headless" in done.stdout and "opencv-python 5" not in done.stdout
    refused = subprocess.run([*command, "--device", "npu"], **options)
    assert refused.returncode == 1 and "libhccl.so" in refused.stdout
