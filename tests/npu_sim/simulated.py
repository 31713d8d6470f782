"""Load the simulated NPU, in this process with `enable`, in another with `environment`."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

FOLDER = str(Path(__file__).parent)


def enable() -> ModuleType:
    """Load and return the simulated `torch_npu`; `torch.npu` exists for the rest of the process.

    Raises `ImportError` with one line, and changes nothing, if it cannot be compiled, does not support this PyTorch
    version, or would hide real hardware.
    """
    before = list(sys.path)
    sys.path.insert(0, FOLDER)
    try:
        torch_npu = importlib.import_module("torch_npu")
        if not getattr(torch_npu, "SIMULATED", False):
            raise ImportError("the real torch_npu is loaded in this process")
    except ImportError:
        sys.path[:] = before
        if "torch_npu" not in sys.modules:
            for name in [name for name in sys.modules if name.startswith("torch_npu.")]:
                del sys.modules[name]
        raise
    if FOLDER in before:
        sys.path[:] = before
    return torch_npu


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a process in which `import torch_npu` loads the simulation, with one thread."""
    path = os.pathsep.join(filter(None, (FOLDER, os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **more}
