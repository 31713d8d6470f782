"""Build the fake Ascend runtime for the torch and torch_npu of the running Python: `python build.py FOLDER`.

Below the folder it makes one of its own for each state of sources and versions, and prints its path. That is
laid out as CANN is. `lib64` holds libraries with the names that torch_npu is linked to, and
`libcpu_kernels.so`, which the first of them loads.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = ("ascend.c", "hccl.cpp", "kernels.cpp", "build.py")
RUNTIME = "ascendcl"
OTHER_LIBRARIES = ("hccl", "acl_op_compiler", "ge_runner", "graph", "acl_tdt_channel")
"""Other libraries of CANN that torch_npu is linked to; here they only link to the first."""
RUNTIME_NAMES = re.compile(r"(acl|rt[A-Z]|Msprof|Hccl)")
NOT_SUPPORTED = 200001
EMPTY_FOLDERS = ("runtime", "compiler", "opp")
"""Parts of CANN that torch_npu looks for when it starts."""


def environment(root: Path) -> dict[str, str]:
    """Return the environment in which a process finds the runtime, like CANN's set_env.sh."""
    return {
        "ASCEND_HOME_PATH": str(root),
        "ASCEND_OPP_PATH": str(root / "opp"),
        "LD_LIBRARY_PATH": os.pathsep.join(
            filter(None, (str(root / "lib64"), os.environ.get("LD_LIBRARY_PATH")))
        ),
        "TASK_QUEUE_ENABLE": "0",  # operators run in the calling thread, not in a thread of torch_npu
    }


def build(into: Path) -> Path:
    """Return the folder of the libraries, which is built if it does not exist."""
    target = into / _key()
    if target.is_dir():
        return target
    into.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f"{target.name}.", suffix=".part", dir=into))
    try:
        for name in ("lib64", *EMPTY_FOLDERS):
            (part / name).mkdir()
        _compile(part / "lib64")
        part.chmod(0o755)
        part.rename(target)
    except OSError:
        if not target.is_dir():  # another process was faster
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def _key() -> str:
    """Return a hash of everything that the libraries depend on."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "torch_npu")]
    digest = hashlib.sha256("\n".join([*versions, platform.platform(), sys.version]).encode())
    for name in SOURCES:
        digest.update((HERE / name).read_bytes())
    return digest.hexdigest()[:16]


def _package(name: str) -> Path:
    """Return the folder of an installed package without importing it: torch_npu requires the built libraries."""
    found = importlib.util.find_spec(name)
    assert found is not None and found.origin is not None, f"{name} is not installed"
    return Path(found.origin).parent


def _compile(out: Path) -> None:
    torch, torch_npu = _package("torch"), _package("torch_npu")
    theirs = [f"-I{torch_npu}/include", f"-I{torch_npu}/include/third_party/acl/inc"]
    torchs = [f"-I{torch}/include", f"-I{torch}/include/torch/csrc/api/include"]
    shared = ["-O1", "-fPIC", "-shared"]
    quiet = ["-Wall", "-Wno-unused"]
    for source, compiler in (("ascend.c", ["gcc", "-std=gnu11"]), ("hccl.cpp", ["g++", "-std=c++20"])):
        _run(
            [
                *compiler,
                "-O1",
                "-fPIC",
                *quiet,
                *theirs,
                *torchs,
                "-c",
                HERE / source,
                "-o",
                out / f"{source}.o",
            ]
        )
    objects = [out / "ascend.c.o", out / "hccl.cpp.o"]
    (out / "missing.c").write_text(_stubs(torch_npu, objects))
    runtime = out / f"lib{RUNTIME}.so"
    soname = f"-Wl,-soname,{runtime.name}"
    _run(["g++", *shared, *objects, "-x", "c", out / "missing.c", "-o", runtime, soname, "-ldl", "-lrt"])
    for name in OTHER_LIBRARIES:
        leads = [f"-L{out}", "-Wl,--no-as-needed", f"-l{RUNTIME}", f"-Wl,-soname,lib{name}.so"]
        _run(["gcc", "-shared", "-x", "c", os.devnull, "-o", out / f"lib{name}.so", *leads])
    links = [f"-L{torch}/lib", "-ltorch_cpu", "-lc10", f"-L{out}", f"-l{RUNTIME}"]
    kernels = ["-std=c++20", *torchs, HERE / "kernels.cpp", "-o", out / "libcpu_kernels.so", *links]
    _run(["g++", *shared, *quiet, *kernels])


def _stubs(torch_npu: Path, objects: list[Path]) -> str:
    """Return C functions that torch_npu is linked to and the sources lack; they print their name and fail."""
    libraries = [*torch_npu.glob("lib/*.so"), *torch_npu.glob("_C*.so")]
    wanted = {name for path in libraries for name in _symbols(path, "--dynamic", "--undefined-only")}
    there = {name for path in objects for name in _symbols(path, "--defined-only")}
    missing = sorted(name for name in wanted - there if RUNTIME_NAMES.match(name))
    says = 'fprintf(stderr, "fake Ascend runtime: %s is not there\\n", __func__);'
    functions = (f"int {name}(void) {{ {says} return {NOT_SUPPORTED}; }}\n" for name in missing)
    return "#include <stdio.h>\n" + "".join(functions)


def _symbols(path: Path, *options: str) -> set[str]:
    listed = subprocess.run(["nm", *options, path], stdout=subprocess.PIPE, text=True, check=True).stdout
    return {line.split()[-1].split("@")[0] for line in listed.splitlines()}


def _run(words: list[str | Path]) -> None:
    subprocess.run([str(word) for word in words], check=True)


if __name__ == "__main__":
    print(build(Path(sys.argv[1])))
