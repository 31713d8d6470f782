"""Compare a device with the CPU: the outputs of the networks, and a training step."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from wav2lip_npu.devices import device as devices
from wav2lip_npu.devices import mixed_precision, number_formats
from wav2lip_npu.models import checkpoint
from wav2lip_npu.models.bundled import STARTER
from wav2lip_npu.models.inputs import syncnet_input
from wav2lip_npu.models.networks import QualityDiscriminator
from wav2lip_npu.models.numerics import TOLERANCES, Difference, compare_runs
from wav2lip_npu.training.losses import cosine, real_loss, sync_loss

Networks = dict[str, nn.Module]
Tensors = dict[str, Tensor]
Run = Callable[[Networks, Tensors, torch.device, str], Tensors]

_DISCRIMINATOR_WIDTH = 8
_BATCH, _FRAMES, _SIZE = 2, 5, 96
_GRADIENTS, _STATISTICS = "training step: gradients", "training step: running statistics"


def compare_with_cpu(device: torch.device, amp: str = "off") -> list[Difference]:
    """Compare outputs, and loss and gradients of one training step, with the CPU in float32.

    The generator and SyncNet have the bundled weights, the discriminator has random ones. The device is
    switched to full float32 precision. Errors of the device propagate.
    """
    devices.activate(device)
    number_formats.full_float32(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        networks = {
            **{kind: checkpoint.load(STARTER, kind).network() for kind in ("generator", "syncnet")},
            "discriminator": QualityDiscriminator(_DISCRIMINATOR_WIDTH),
        }
        inputs = {
            "mels": torch.rand(_BATCH, _FRAMES, 1, 80, 16) * 4 - 2,
            "faces": torch.rand(_BATCH, 6, _FRAMES, _SIZE, _SIZE),
            "target": torch.rand(_BATCH, 3, _FRAMES, _SIZE, _SIZE),
            "mel": torch.rand(_BATCH, 1, 80, 16) * 4 - 2,
        }
    tolerance, gradient_tolerance = TOLERANCES[amp]
    by_norm = {_GRADIENTS: gradient_tolerance, _STATISTICS: tolerance}

    def on(device: torch.device, amp: str, run: Run) -> Callable[[Tensors], Tensors]:
        def run_on_device(inputs: Tensors) -> Tensors:
            copies = {kind: copy.deepcopy(network).to(device) for kind, network in networks.items()}
            return run(copies, {name: value.to(device) for name, value in inputs.items()}, device, amp)

        return run_on_device

    cpu = torch.device(devices.HOST)
    return [
        difference
        for run in (_outputs, _training_step)
        for difference in compare_runs(
            [inputs], on(cpu, "off", run), on(device, amp, run), tolerance, by_norm=by_norm
        )
    ]


@torch.inference_mode()
def _outputs(networks: Networks, inputs: Tensors, device: torch.device, amp: str) -> Tensors:
    """Return the outputs of the networks in eval mode."""
    for network in networks.values():
        network.eval()
    with mixed_precision.autocast(device, amp):
        generated = networks["generator"](inputs["mels"], inputs["faces"])
        audio, mouths = networks["syncnet"](inputs["mel"], syncnet_input(inputs["target"]))
        judged = networks["discriminator"](inputs["target"])
    return {
        "generator": generated,
        "SyncNet, audio": audio,
        "SyncNet, mouths": mouths,
        "discriminator": judged,
    }


def _training_step(networks: Networks, inputs: Tensors, device: torch.device, amp: str) -> Tensors:
    """Return loss and gradients of the generator, and its running statistics after the step.

    The loss is L1 plus the sync and quality losses. There is no optimizer step: Adam would turn rounding
    errors of gradients near 0 into whole steps.
    """
    generator, syncnet, discriminator = (networks[kind] for kind in ("generator", "syncnet", "discriminator"))
    generator.train()
    syncnet.eval().requires_grad_(False)
    discriminator.eval().requires_grad_(False)
    with mixed_precision.autocast(device, amp):
        generated = generator(inputs["mels"], inputs["faces"])
    with mixed_precision.autocast(device, amp):
        audio, mouths = syncnet(inputs["mel"], syncnet_input(generated.float()))
        judged = discriminator(generated.float())
    loss = nn.functional.l1_loss(generated.float(), inputs["target"])
    loss = loss + 0.03 * sync_loss(audio.float(), mouths.float()) + 0.07 * real_loss(judged.float())
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = [
        parameter.grad.flatten().float() for parameter in generator.parameters() if parameter.grad is not None
    ]
    statistics = [buffer.flatten() for name, buffer in generator.named_buffers() if "running" in name]
    return {
        "training step: loss": loss[None],
        "training step: cosine": cosine(audio.float(), mouths.float()),
        _GRADIENTS: torch.cat(gradients),
        _STATISTICS: torch.cat(statistics),
    }
