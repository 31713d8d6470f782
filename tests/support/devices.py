"""The device of `any_device` tests: the CPU, or that of the variable `TEST_DEVICE`.

`npu` is the simulated NPU of `npu_sim/`, `cuda` the first GPU. A process tests one device, because PyTorch
cannot unregister an accelerator.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

SIMULATION = Path(__file__).parents[1] / "npu_sim"
_KIND = os.environ.get("TEST_DEVICE", "cpu")
DEVICE = torch.device("cpu")

if _KIND == "npu":
    sys.path.insert(0, str(SIMULATION))
    import simulated

    try:
        simulated.enable()
    except ImportError as reason:
        if os.environ.get("FAIL_WITHOUT_NPU"):
            raise
        pytest.exit(f"the tests on the simulated NPU are skipped: {reason}", returncode=0)
    DEVICE = torch.device("npu", 0)
    # With several threads, the rounding of a sum depends on its address, which differs from the CPU.
    torch.set_num_threads(1)
elif _KIND == "cuda":
    if not torch.cuda.is_available():
        pytest.exit("TEST_DEVICE=cuda needs a GPU and a CUDA build of torch", returncode=2)
    DEVICE = torch.device("cuda", 0)
    # Tests compare results with those of the CPU and of a second run.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.allow_tf32 = False
elif _KIND != "cpu":
    pytest.exit(f"TEST_DEVICE={_KIND} is not npu or cuda", returncode=2)
