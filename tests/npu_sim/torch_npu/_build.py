"""Compile the native part, once for each version of its sources, PyTorch and flags."""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

SOURCES = Path(__file__).parent / "native"
CACHE = Path(__file__).parents[3] / "build" / "npu_sim"
UNITS = (
    ("autocast",),
    ("rules", "dispatch", "autograd"),
    ("copies", "device"),
    ("memory", "aliases", "random", "controls"),
)
"""Sources that are compiled together, since parsing PyTorch's headers takes most of the time."""
FLAGS = [
    "-O1",
    "-std=c++20",
    "-fPIC",
    "-w",
    f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}",
]
TORCH = Path(torch.__file__).parent


def library() -> Path:
    """Return the compiled library, built unless it is in `NPU_SIM_CACHE` (default `build/npu_sim`).

    One process builds while others wait. Raises `ImportError` with one line if there is no compiler.
    """
    cache = Path(os.environ.get("NPU_SIM_CACHE") or CACHE)
    built = cache / f"npu_sim-{_key()}.so"
    if built.exists():
        return built
    compiler = shutil.which(os.environ.get("CXX") or "g++")
    if compiler is None:
        raise ImportError("the simulated NPU has to be compiled, and there is no g++ (CXX names another)")
    cache.mkdir(parents=True, exist_ok=True)
    if cache == CACHE:
        (cache / ".gitignore").write_text("*\n")
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not built.exists():
            _build(compiler, built)
    return built


def _key() -> str:
    parts = [
        *FLAGS,
        repr(UNITS),
        torch.__version__,
        str(torch.version.git_version),
        platform.machine(),
        str(TORCH),
    ]
    digest = hashlib.sha256("\n".join(parts).encode())
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _build(compiler: str, built: Path) -> None:
    includes = [f"-I{TORCH / 'include'}", f"-I{TORCH / 'include/torch/csrc/api/include'}"]
    with tempfile.TemporaryDirectory(dir=built.parent) as folder:

        def compiled(unit: tuple[str, ...]) -> Path:
            source, target = (Path(folder) / f"{unit[0]}{suffix}" for suffix in (".cpp", ".o"))
            source.write_text("".join(f'#include "{SOURCES / name}.cpp"\n' for name in unit))
            _run([compiler, *FLAGS, *includes, f"-I{SOURCES}", "-c", source, "-o", target])
            return target

        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            objects = list(pool.map(compiled, UNITS))
        linked = Path(folder) / built.name
        libraries = [f"-L{TORCH / 'lib'}", f"-Wl,-rpath,{TORCH / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"]
        _run([compiler, "-shared", *objects, "-o", linked, *libraries])
        linked.replace(built)


def _run(command: list[object]) -> None:
    done = subprocess.run(
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        lines = [line for line in done.stdout.splitlines() if "error" in line] or done.stdout.splitlines()
        raise ImportError(f"the simulated NPU does not compile: {lines[0] if lines else command[0]}")
