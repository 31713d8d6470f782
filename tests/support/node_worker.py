"""Worker of `integration/test_multi_node.py`: trains, then saves the networks of its rank in the folder argv[1]."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

sys.path[0] = str(Path(__file__).resolve().parents[1])

from support.devices import DEVICE
from wav2lip_npu.cli import main
from wav2lip_npu.training import session
from wav2lip_npu.training.trained_network import copied

assert DEVICE.type in sys.argv
real_fit = session.fit


def fit(state, *arguments, **options):
    """Train, then save the networks of this rank."""
    result = real_fit(state, *arguments, **options)
    networks = {kind: trained.network.state_dict() for kind, trained in state.networks.items()}
    torch.save(copied(networks, to="cpu"), Path(sys.argv[1]) / f"rank{os.environ['RANK']}.pt")
    return result


session.fit = fit
torch.set_num_threads(1)
sys.exit(main.main(sys.argv[2:]))
