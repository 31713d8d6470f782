"""The designs of generators: parameters, multiplications, and faces per second, each as a dub runs it.

    python benchmarks/designs.py [--designs 96 own-192 256] [--seconds 5] [--device cpu] [--precision fp32]

On a CPU, one thread computes single faces; otherwise batches of the default size. Weights are random.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor, nn

from wav2lip_npu.devices import device as devices
from wav2lip_npu.devices import number_formats, transfers
from wav2lip_npu.dubbing.blend import load_mask
from wav2lip_npu.models.blocks import fold_norms
from wav2lip_npu.models.generator import Wav2Lip
from wav2lip_npu.models.plans import PLANS


def multiplications(network: Wav2Lip) -> int:
    """Return the multiplications of one whole face; the network is on the meta device."""
    counts = []

    def count(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        planes = inputs[0] if isinstance(layer, nn.ConvTranspose2d) else output
        counts.append(layer.weight.numel() * planes[0, 0].numel())  # type: ignore[union-attr, operator]

    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            layer.register_forward_hook(count)
    size = network.face_size
    network(torch.zeros(1, 1, 80, 16, device="meta"), torch.zeros(1, 6, size, size, device="meta"))
    return sum(counts)


@torch.inference_mode()
def pace(network: Wav2Lip, target: torch.device, dtype: torch.dtype, batch: int, seconds: float) -> float:
    """Return faces per second under a soft mask."""
    size, row = network.face_size, load_mask("soft", network.face_size).top_row
    layout = devices.memory_format(target)
    mels = torch.rand(batch, 1, 80, 16, device=target, dtype=dtype)
    faces = torch.rand(batch, 6, size, size, device=target, dtype=dtype).contiguous(memory_format=layout)

    def run() -> None:
        network.decode(mels, network.encode_faces(faces), top_row=row)
        transfers.synchronize(target)

    run()
    count, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        run()
        count += batch
    return count / (time.perf_counter() - begun)


def main() -> None:
    """Measure and print a table."""
    names = [plan.name for plan in PLANS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--designs", nargs="+", choices=names, default=names)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32")
    given = parser.parse_args()
    target, dtype = devices.resolve(given.device), number_formats.dtype_of(given.precision)
    devices.activate(target)
    if target.type == devices.HOST:
        torch.set_num_threads(1)
    print(f"{devices.describe(target)}, {given.precision}")
    print(f"{'design':>10} {'px':>4} {'parameters':>11} {'multiplications':>16} {'faces/s':>8}")
    for plan in (plan for plan in PLANS if plan.name in given.designs):
        with torch.device("meta"):
            network = Wav2Lip(plan=plan).eval()
        parameters, cost = sum(p.numel() for p in network.parameters()), multiplications(network)
        network = Wav2Lip(plan=plan).eval()
        fold_norms(network)
        network.to(target, dtype, memory_format=devices.memory_format(target))  # type: ignore[call-overload]
        batch = devices.BACKENDS[target.type].batch * 96**2 // plan.size**2
        batch = 1 if target.type == devices.HOST else max(1, batch)
        speed = pace(network, target, dtype, batch, given.seconds)
        print(
            f"{plan.name:>10} {plan.size:4} {parameters / 1e6:9.1f} M {cost / 1e9:14.2f} G {speed:8.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
