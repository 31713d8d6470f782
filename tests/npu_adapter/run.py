"""Run the tests of this folder with Huawei's torch_npu, without NPU and CANN: `python run.py`.

It needs Linux, Python with venv, gcc and g++, and what pip is set up to install from. All that it makes is
below `build/npu_adapter`; what is there already is used again. Further words go to pytest.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from build import environment

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "npu_adapter"
PYTHON = BUILD / "venv" / "bin" / "python"
# The packages of the extras `dev` and `npu` that these tests need.
NEEDED = ("pytest", "pytest-timeout", "hypothesis", "scikit-image", "soundfile", "pyyaml")
TORCH_NPU = "torch_npu==2.13.0"
CPU_TORCH = """
import os, sys
os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"  # an already installed torch_npu would make the import fail
import torch
sys.exit(torch.version.cuda and "torch_npu wants a build of torch for the CPU. Let pip find one, then run again.")
"""


def main() -> int:
    """Run pytest and return its exit code."""
    BUILD.mkdir(parents=True, exist_ok=True)
    (BUILD / ".gitignore").write_text("*\n")
    ready = BUILD / "venv" / f"ready-{_key()}"
    if not ready.exists():
        _install()
        ready.touch()
    built = subprocess.run(
        [PYTHON, HERE / "build.py", BUILD / "runtime"], stdout=subprocess.PIPE, text=True, check=True
    )
    root = Path(built.stdout.split()[-1])
    variables = {
        "OMP_NUM_THREADS": "1",  # such small networks are slower with two threads
        **os.environ,
        **environment(root),
        "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",  # the package loads torch_npu, not PyTorch
        "NPU_ADAPTER_RUNTIME": str(root),
    }
    return subprocess.run([PYTHON, "-m", "pytest", HERE, *sys.argv[1:]], cwd=ROOT, env=variables).returncode


def _key() -> str:
    """Return a hash of everything that the virtual environment depends on."""
    digest = hashlib.sha256(sys.version.encode())
    for path in (ROOT / "pyproject.toml", ROOT / "constraints.txt", HERE / "run.py"):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _install() -> None:
    """Create a virtual environment with the package, its tests and torch_npu."""
    pip = [PYTHON, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt"]
    if not PYTHON.exists():
        subprocess.run([sys.executable, "-m", "venv", BUILD / "venv"], check=True)
    subprocess.run([*pip, "-e", ROOT, *NEEDED], check=True)
    if subprocess.run([PYTHON, "-c", "import cv2"], stderr=subprocess.DEVNULL).returncode:  # libGL is missing
        subprocess.run([*pip, "--no-deps", "--force-reinstall", "opencv-python-headless"], check=True)
    subprocess.run([PYTHON, "-c", CPU_TORCH], check=True)
    # Its needs are there; without CANN the rest of the vendor's tools is of no use.
    subprocess.run([*pip, "--no-deps", TORCH_NPU], check=True)


if __name__ == "__main__":
    sys.exit(main())
