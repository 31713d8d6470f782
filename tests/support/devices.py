"""The device that tests of devices run on: the CPU, or with `TEST_DEVICE=npu` the simulated NPU of `npu_sim/`.

A whole process tests one device: a second accelerator cannot be taken out of PyTorch again.
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
        pytest.exit(f"the tests on a simulated NPU are left out: {reason}", returncode=0)
    DEVICE = torch.device(os.environ["TEST_DEVICE"], 0)
    # Threads divide a sum by where its memory begins: the CPU and the device would round in other places.
    torch.set_num_threads(1)
