"""The device of `any_device` tests: the CPU, or with `TEST_DEVICE=npu` the simulated NPU of `npu_sim/`.

A process tests one device, because PyTorch cannot unregister an accelerator.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

SIMULATION = Path(__file__).parents[1] / "npu_sim"
DEVICE = torch.device("cpu")

if os.environ.get("TEST_DEVICE", "cpu") != "cpu":
    sys.path.insert(0, str(SIMULATION))
    import pytest
    import simulated

    try:
        simulated.enable()
    except ImportError as reason:
        if os.environ.get("FAIL_WITHOUT_NPU"):
            raise
        pytest.exit(f"the tests on the simulated NPU are skipped: {reason}", returncode=0)
    DEVICE = torch.device(os.environ["TEST_DEVICE"], 0)
    # With several threads, the rounding of a sum depends on its address, which differs from the CPU.
    torch.set_num_threads(1)
