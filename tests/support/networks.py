"""Networks with known behaviour, for tests."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import torch
from torch import nn

from wav2lip_npu.models.generator import Wav2Lip
from wav2lip_npu.models.lpips import _AlexNet, _Linear
from wav2lip_npu.models.plans import PLAN_96, Plan


def golden_weights(network: nn.Module) -> nn.Module:
    """Set the weights of the golden outputs, each derived from its name, and return the network."""
    state = network.state_dict()
    for name, tensor in state.items():
        shape = tuple(tensor.shape)
        random = np.random.RandomState(zlib.crc32(name.encode()))
        if name.endswith("num_batches_tracked"):
            values = np.zeros(shape)
        elif name.endswith("running_var"):
            values = random.uniform(0.5, 1.5, shape)
        elif name.endswith("running_mean"):
            values = random.normal(0, 0.1, shape)
        elif name.endswith("weight") and len(shape) == 1:
            values = random.uniform(0.8, 1.2, shape)
        elif name.endswith("bias"):
            values = random.normal(0, 0.05, shape)
        else:
            values = random.normal(0, 1, shape) * np.sqrt(1.5 / np.prod(shape[1:]))
        state[name] = torch.from_numpy(np.asarray(values)).to(tensor.dtype)
    network.load_state_dict(state)
    return network.eval()


def generator_of(plan: Plan, width: int = 4) -> Wav2Lip:
    """Return a generator of a plan with golden weights. The deepest are damped, as they amplify rounding.

    So are learned slopes, to those of a new network: near 1 nothing would be cut off.
    """
    network = golden_weights(Wav2Lip(width, plan))
    assert isinstance(network, Wav2Lip)
    for name, tensor in network.state_dict().items():
        if name.endswith("act.weight"):
            tensor *= 0.25
    if plan.attention:
        for name, tensor in network.state_dict().items():
            if name.endswith(("conv_block.1.weight", "conv_block.1.bias")):
                tensor *= 0.5
    return network


def copying_generator(width: int = 32, plan: Plan = PLAN_96) -> Wav2Lip:
    """Return a generator whose output is its reference face, within about two grey levels.

    The first encoder block passes the three colours on; the output block approximates the inverse of the
    sigmoid that follows it by piecewise linear functions.
    """
    network = Wav2Lip(width, plan)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var"):
                tensor.fill_(1 - 1e-5)
            elif not (name.endswith("weight") and tensor.dim() == 1):
                tensor.zero_()
        first = network.face_encoder_blocks[0][0].conv_block[0].weight
        hinge = network.output_block[0].conv_block[0]
        last = network.output_block[1]
        decoded = hinge.weight.shape[1] - first.shape[0]
        per_colour = hinge.weight.shape[0] // 3
        knots = torch.sin(torch.linspace(-np.pi / 2, np.pi / 2, per_colour + 1)) / 2 + 0.5
        values = torch.logit(knots.clamp(0.003, 0.997))
        slopes = (values[1:] - values[:-1]) / (knots[1:] - knots[:-1])
        bends = torch.cat([slopes[:1], slopes[1:] - slopes[:-1]])
        for colour in range(3):
            first[colour, 3 + colour, 3, 3] = 1
            last.bias[colour] = values[0]
            for number in range(per_colour):
                channel = colour * per_colour + number
                hinge.weight[channel, decoded + colour, 1, 1] = 1
                hinge.bias[channel] = -knots[number]
                last.weight[colour, channel, 0, 0] = bends[number]
    return network.eval()


def write_lpips(folder: Path) -> tuple[Path, Path]:
    """Write random weights in the form of torchvision's AlexNet and of the authors' linear layers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        alexnet = _AlexNet().state_dict() | {"classifier.1.weight": torch.zeros(2, 2)}
        linear = {name: tensor.abs() for name, tensor in _Linear().state_dict().items()}
    torch.save(alexnet, folder / "alexnet.pth")
    torch.save(linear, folder / "alex.pth")
    return folder / "alexnet.pth", folder / "alex.pth"
