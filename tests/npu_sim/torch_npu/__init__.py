"""A simulated NPU under the name of Huawei's `torch_npu`, for tests on machines without one.

`torch_npu.SIMULATED` and the version `2.13.0+sim` distinguish it from the real one. It refuses to load where the real
one is installed, unless `NPU_SIM=1`, because a process on the hardware may have its folder on the path.
`NPU_SIM_DEVICES` is the number of devices (2), `NPU_SIM_CHIP` the chip (910B3, 310P3, 910A).
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
import warnings

# Otherwise `import torch` loads an installed real torch_npu.
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

import torch

from torch_npu import _build

SIMULATED = True
_TORCH = "2.13"
__version__ = f"{torch.__version__.partition('+')[0]}+sim"


def _check() -> None:
    """Raise `ImportError` if the simulation cannot or must not be loaded. Changes nothing."""
    if os.environ.get("NPU_SIM") != "1":
        try:
            real = importlib.metadata.version("torch_npu")
        except importlib.metadata.PackageNotFoundError:
            pass
        else:
            raise ImportError(f"torch_npu {real} is installed, set NPU_SIM=1 to simulate an NPU all the same")
    if not torch.__version__.startswith(f"{_TORCH}."):  # the accelerator hooks change between minor versions
        raise ImportError(f"the simulated NPU is written for torch {_TORCH}, this is {torch.__version__}")
    renamed = torch._C._get_privateuse1_backend_name()
    if renamed != "privateuseone":
        raise ImportError(f"PyTorch has another accelerator plugged in, {renamed!r}")
    other = torch.accelerator.current_accelerator()
    if other is not None:
        raise ImportError(
            f"PyTorch supports one accelerator in addition to the CPU, and this build has {other.type!r}"
        )


def _autoload() -> None:
    """Do nothing; `import torch` calls this through the entry point of a real torch_npu."""


_check()
torch.ops.load_library(str(_build.library()))
torch.utils.rename_privateuse1_backend("npu")

from torch_npu import chips  # noqa: E402

chips.activate(os.environ.get("NPU_SIM_CHIP") or "910B3")

from torch_npu import npu  # noqa: E402

torch._register_device_module("npu", npu)
sys.modules["torch.npu"] = npu
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch.utils.generate_methods_for_privateuse1_backend(for_tensor=True, for_module=True, for_storage=True)

from torch_npu import hccl, norms, simulation  # noqa: E402, F401

hccl.register()
norms.register()
