"""Wav2Lip lip-sync on Ascend NPUs, CUDA GPUs and CPUs."""

import os

# With torch_npu installed but CANN absent, PyTorch's autoload would make `import torch` fail. The plugin
# is loaded by `device.py`, when an NPU is asked for.
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

__version__ = "0.4.0"
