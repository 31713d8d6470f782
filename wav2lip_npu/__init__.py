"""Wav2Lip lip-sync on Ascend NPUs, CUDA GPUs and CPUs."""

import importlib
import os
from typing import Any

# With torch_npu installed but CANN absent, PyTorch's autoload would make `import torch` fail. The plugin
# is loaded by `device.py`, when an NPU is asked for.
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

__version__ = "0.5.0"

_PUBLIC = {
    "DubOptions": "dubbing.pipeline",
    "FaceCache": "batch.face_cache",
    "Job": "batch.jobs",
    "JobResult": "batch.results",
    "load_models": "dubbing.inference",
    "run_batch": "batch.run",
    "run_jobs": "batch.runner",
}
__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    """Import what is asked for then, as torch and OpenCV take their time."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
