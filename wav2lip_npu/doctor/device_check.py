"""The three networks and a training step on a device, beside the same on the CPU in float32."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wav2lip_npu import device as devices
from wav2lip_npu.models import checkpoint
from wav2lip_npu.models.bundled import STARTER
from wav2lip_npu.models.networks import QualityDiscriminator
from wav2lip_npu.training.generator import lower_halves
from wav2lip_npu.training.losses import cosine, real_loss, sync_loss

_CRITIC_WIDTH = 8
_BATCH, _FRAMES, _SIZE = 2, 5, 96
_GRADIENTS, _STATISTICS = "gradients", "running statistics"
TOLERANCES = {"off": (1e-3, 1e-3), "fp16": (2e-2, 0.2), "bf16": (5e-2, 0.3)}
"""Largest difference of numbers and of gradients that is taken for rounding, by the numbers inside the
networks. Float32 leaves room for other orders of summation; on a CPU half of the others was measured."""


@dataclass(frozen=True)
class Difference:
    """How far a device is from the CPU."""

    what: str
    largest: float
    """Of any number; gradients and statistics are compared as a whole, in parts of their norm."""
    mean: float
    tolerance: float
    cosine: float = float("nan")
    """Of the angle between all numbers of one and of the other."""

    @property
    def is_small(self) -> bool:
        """Whether it is rounding; no number is never small."""
        return self.largest <= self.tolerance

    def __str__(self) -> str:
        verdict = "ok" if self.is_small else f"MORE THAN {self.tolerance:g}"
        return (
            f"{self.what:<28} largest {self.largest:.2e}, mean {self.mean:.2e}, cosine {self.cosine:.7f}: "
            f"{verdict}"
        )


def difference(
    what: str, measured: Tensor, expected: Tensor, tolerance: float, *, as_whole: bool = False
) -> Difference:
    """How far what was measured is from what was expected: number by number, or as a whole."""
    measured, expected = measured.cpu().double(), expected.cpu().double()
    off = (measured - expected).abs()
    if as_whole:
        off = off.norm()[None] / expected.norm()
    angle = float(nn.functional.cosine_similarity(measured.flatten(), expected.flatten(), dim=0))
    return Difference(what, float(off.max()), float(off.mean()), tolerance, angle)


def differences(device: torch.device, amp: str = "off") -> list[Difference]:
    """Outputs, and loss and gradients of a training step, against the CPU. Raises what the device raises.

    Generator and expert are the starter's, the discriminator has random weights. The device keeps the whole
    mantissa of float32 from here on.
    """
    devices.activate(device)
    devices.full_float32(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        networks = {
            **{kind: checkpoint.load(STARTER, kind).network() for kind in ("generator", "expert")},
            "discriminator": QualityDiscriminator(_CRITIC_WIDTH),
        }
        inputs = {
            "mels": torch.rand(_BATCH, _FRAMES, 1, 80, 16) * 4 - 2,
            "pairs": torch.rand(_BATCH, 6, _FRAMES, _SIZE, _SIZE),
            "target": torch.rand(_BATCH, 3, _FRAMES, _SIZE, _SIZE),
            "mel": torch.rand(_BATCH, 1, 80, 16) * 4 - 2,
        }
    found = []
    runs: dict[str, Callable[..., dict[str, Tensor]]] = {"": _outputs, "training step: ": _step}
    for name, run in runs.items():
        expected = run(copy.deepcopy(networks), inputs, torch.device(devices.HOST), "off")
        there = {kind: copy.deepcopy(network).to(device) for kind, network in networks.items()}
        given = {kind: value.to(device) for kind, value in inputs.items()}
        measured = run(there, given, device, amp)
        for what, value in expected.items():
            tolerance = TOLERANCES[amp][what == _GRADIENTS]
            as_whole = what in (_GRADIENTS, _STATISTICS)
            found.append(difference(name + what, measured[what], value, tolerance, as_whole=as_whole))
    return found


@torch.inference_mode()
def _outputs(
    networks: dict[str, nn.Module], inputs: dict[str, Tensor], device: torch.device, amp: str
) -> dict[str, Tensor]:
    """What the networks make of the same input, as they are used after training."""
    for network in networks.values():
        network.eval()
    with devices.autocast(device, amp):
        made = networks["generator"](inputs["mels"], inputs["pairs"])
        sound, picture = networks["expert"](inputs["mel"], lower_halves(inputs["target"]))
        judged = networks["discriminator"](inputs["target"])
    return {
        "generator": made,
        "expert, sound": sound,
        "expert, picture": picture,
        "discriminator": judged,
    }


def _step(
    networks: dict[str, nn.Module], inputs: dict[str, Tensor], device: torch.device, amp: str
) -> dict[str, Tensor]:
    """Loss and gradients of the generator by L1, sync and quality together; running statistics after it.

    An Adam step from there on would turn rounding of gradients near 0 into whole steps.
    """
    generator, expert, critic = (networks[kind] for kind in ("generator", "expert", "discriminator"))
    generator.train()
    expert.eval().requires_grad_(False)
    critic.eval().requires_grad_(False)
    with devices.autocast(device, amp):
        made = generator(inputs["mels"], inputs["pairs"])
    with devices.autocast(device, amp):
        sound, picture = expert(inputs["mel"], lower_halves(made.float()))
        judged = critic(made.float())
    loss = nn.functional.l1_loss(made.float(), inputs["target"])
    loss = loss + 0.03 * sync_loss(sound.float(), picture.float()) + 0.07 * real_loss(judged.float())
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = torch.cat(
        [each.grad.flatten().float() for each in generator.parameters() if each.grad is not None]
    )
    statistics = torch.cat([each.flatten() for name, each in generator.named_buffers() if "running" in name])
    return {
        "loss": loss.detach()[None],
        "cosine": cosine(sound.detach().float(), picture.detach().float()),
        _GRADIENTS: gradients,
        _STATISTICS: statistics,
    }
