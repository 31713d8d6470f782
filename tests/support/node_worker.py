"""A training of `test_multi_node.py` that takes down each rank's networks: argv[1] is the folder to write to."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

sys.path[0] = str(Path(__file__).resolve().parents[1])

from support.devices import DEVICE
from wav2lip_npu.cli import main
from wav2lip_npu.training import session
from wav2lip_npu.training.state import _copied

assert DEVICE.type in sys.argv
real_fit = session.fit


def fit(state, *arguments, **more):
    """Trains, then writes what this rank has learnt."""
    real_fit(state, *arguments, **more)
    networks = {kind: each.network.state_dict() for kind, each in state.trainees.items()}
    torch.save(_copied(networks, to="cpu"), Path(sys.argv[1]) / f"rank{os.environ['RANK']}.pt")


session.fit = fit
torch.set_num_threads(1)
sys.exit(main.main(sys.argv[2:]))
