"""The three networks and a training step on a device, beside the same on the CPU in float32."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from wav2lip_npu import device as devices
from wav2lip_npu.models import checkpoint
from wav2lip_npu.models.bundled import STARTER
from wav2lip_npu.models.inputs import syncnet_input
from wav2lip_npu.models.networks import QualityDiscriminator
from wav2lip_npu.models.numerics import TOLERANCES, Difference, difference
from wav2lip_npu.training.losses import cosine, real_loss, sync_loss

_CRITIC_WIDTH = 8
_BATCH, _FRAMES, _SIZE = 2, 5, 96
_GRADIENTS, _STATISTICS = "gradients", "running statistics"


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
            **{kind: checkpoint.load(STARTER, kind).network() for kind in ("generator", "syncnet")},
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
        sound, picture = networks["syncnet"](inputs["mel"], syncnet_input(inputs["target"]))
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
    generator, syncnet, critic = (networks[kind] for kind in ("generator", "syncnet", "discriminator"))
    generator.train()
    syncnet.eval().requires_grad_(False)
    critic.eval().requires_grad_(False)
    with devices.autocast(device, amp):
        made = generator(inputs["mels"], inputs["pairs"])
    with devices.autocast(device, amp):
        sound, picture = syncnet(inputs["mel"], syncnet_input(made.float()))
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
