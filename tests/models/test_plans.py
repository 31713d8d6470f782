"""Generators for larger faces: published figures, all published forms of files, and an independent forward pass."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from support.devices import DEVICE
from support.marks import slow
from support.networks import generator_of
from wav2lip_npu.errors import CheckpointError, UsageError
from wav2lip_npu.models.checkpoint import load, save
from wav2lip_npu.models.generator import Wav2Lip, first_rows
from wav2lip_npu.models.plan_choice import Design, measured_refine
from wav2lip_npu.models.plans import PLANS, AudioRefine, Plan

BY_NAME = {plan.name: plan for plan in PLANS}
SMALL = 4
"""A width at which all designs have whole channels."""

# Millions of parameters and billions of multiplications, as others counted them. In the last three, those of the
# audio encoder, 0.16 billion, are not included.
PUBLISHED = [
    ("96", 96, 36.3, 3.97),
    ("256", 256, 53.6, 27.8),
    ("288", 288, 48.5, 18.5),
    ("sam", 384, 172.7, 80.5),
    ("sam", 192, 172.7, 20.0),
    ("384", 384, 156.9, 36.5),
]


def plan_of(name: str, size: int | None = None, refine: AudioRefine = "normalized") -> Plan:
    plan = BY_NAME[name]
    return replace(
        plan,
        size=size or plan.size,
        audio_refine=refine if plan.attention else plan.audio_refine,
    )


@pytest.mark.parametrize(("name", "billions"), [("own-192", 5.3), ("own-256", 9.4)])
def test_cost_of_own_designs(name: str, billions: float) -> None:
    with torch.device("meta"):
        network = Wav2Lip(plan=BY_NAME[name]).eval()
    assert sum(multiplications(network).values()) / 1e9 == pytest.approx(billions, abs=0.05)


def multiplications(network: Wav2Lip) -> dict[str, int]:
    """Return the multiplications of one face by the first part of the names of the layers."""
    counts: dict[str, int] = {}

    def count(name: str, layer: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        positions = inputs[0] if isinstance(layer, nn.ConvTranspose2d) else output
        counts[name] = counts.get(name, 0) + layer.weight.numel() * positions[0, 0].numel()

    for name, layer in network.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            part = name.split(".")[0]
            layer.register_forward_hook(lambda *item, part=part: count(part, *item))
    size = network.face_size
    with torch.device("meta"):
        faces = network(torch.zeros(1, 1, 80, 16), torch.zeros(1, 6, size, size))
    assert faces.shape == (1, 3, size, size)
    return counts


@pytest.mark.parametrize(("name", "size", "parameters", "billions"), PUBLISHED)
def test_published_figures(name: str, size: int, parameters: float, billions: float) -> None:
    with torch.device("meta"):
        network = Wav2Lip(plan=plan_of(name, size)).eval()
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(parameters, abs=0.05)
    counts = multiplications(network)
    if network.plan.long_audio:
        counts.pop("audio_refine")
        assert counts.pop("audio_encoder") / 1e9 == pytest.approx(0.16, abs=0.005)
    assert sum(counts.values()) / 1e9 == pytest.approx(billions, abs=0.05)


def random_input(batch: int, size: int) -> tuple[Tensor, Tensor]:
    """Return mels and faces in float64, in which rounding does not hide mistakes."""
    mels = torch.rand(batch, 1, 80, 16, dtype=torch.float64) * 8 - 4
    return mels, torch.rand(batch, 6, size, size, dtype=torch.float64)


# An independent forward pass: straight from the published programs, driven by the names in the weights.


def layer(weights: dict[str, Tensor], name: str, x: Tensor, *, slope: Any = 0.0, **how: Any) -> Tensor:
    """Convolution, batch norm and activation of a block."""
    block = f"{name}.conv_block"
    convolution = functional.conv_transpose2d if how.pop("up", False) else functional.conv2d
    is_residual = how.pop("residual", False)
    y = convolution(x, weights[f"{block}.0.weight"], weights[f"{block}.0.bias"], **how)
    norms = (weights[f"{block}.1.{n}"] for n in ("running_mean", "running_var", "weight", "bias"))
    y = functional.batch_norm(y, *norms)
    y = y + x if is_residual else y
    return functional.prelu(y, weights.get(f"{name}.act.weight", torch.tensor([slope], dtype=y.dtype)))


def blocks_of(weights: dict[str, Tensor], part: str) -> list[int]:
    """Return the number of layers of each stage of a part."""
    layers = {tuple(key.split(".")[1:3]) for key in weights if key.startswith(part)}
    stages = 1 + max(int(stage) for stage, _ in layers)
    return [sum(int(stage) == number for stage, _ in layers) for number in range(stages)]


def plain_audio(weights: dict[str, Tensor], mels: Tensor, slope: float) -> Tensor:
    x = mels
    count = len({key.split(".")[1] for key in weights if key.startswith("audio_encoder.")})
    strides = {3: (3, 1), 6: 3, 9: (3, 2)}
    for number in range(count):
        kernel = weights[f"audio_encoder.{number}.conv_block.0.weight"]
        is_last = number >= count - 2
        x = layer(
            weights,
            f"audio_encoder.{number}",
            x,
            slope=0 if is_last else slope,
            stride=strides.get(number, 1),
            padding=0 if is_last else 1,
            residual=not is_last and kernel.shape[0] == kernel.shape[1],
        )
    return x


def plain_forward(weights: dict[str, Tensor], plan: Plan, mels: Tensor, faces: Tensor) -> Tensor:
    """Return the output of a published design, before values below 0 are cut off."""
    slope = 0.2 if plan.name == "384-leaky" else 0.0
    no_padding = {"96": [6], "288": [7, 8], "384": [8], "384-leaky": [8]}.get(plan.name, [7])
    features, x = [], faces
    for stage, layers in enumerate(blocks_of(weights, "face_encoder_blocks")):
        for number in range(layers):
            name = f"face_encoder_blocks.{stage}.{number}"
            kernel = weights[f"{name}.conv_block.0.weight"].shape[-1]
            is_first, is_valid = number == 0, stage in no_padding
            x = layer(
                weights,
                name,
                x,
                slope=slope,
                stride=2 if is_first and stage and not is_valid else 1,
                padding=0 if is_valid else kernel // 2,
                residual=not is_first and kernel == 3,
            )
        features.append(x)
    x = plain_audio(weights, mels, slope)
    if plan.audio_refine in ("plain", "normalized"):
        x = layer(weights, "audio_refine.1", layer(weights, "audio_refine.0", x, slope=slope), slope=slope)
    if plan.audio_refine == "normalized":
        x = x / x.square().sum(dim=1, keepdim=True).sqrt()
    for stage, layers in enumerate(blocks_of(weights, "face_decoder_blocks")):
        feature = features.pop()
        for number in range(layers):
            name, how = f"face_decoder_blocks.{stage}.{number}", dict[str, Any](slope=slope)
            if number:
                how |= {"padding": 1, "residual": True}
            elif stage == 1:
                how |= {"up": True}
            elif stage:
                odd = plan.name == "288" and stage in (2, 3)
                how |= {"up": True, "stride": 2, "padding": 1, "output_padding": 0 if odd else 1}
            x = layer(weights, name, x, **how)
        if plan.attention:
            maps = torch.cat([feature.mean(1, keepdim=True), feature.max(1, keepdim=True)[0]], dim=1)
            x = x * functional.conv2d(maps, weights["sam.sa.conv1.weight"], padding=3).sigmoid() + x
        x = torch.cat([x, feature], dim=1)
    x = layer(weights, "output_block.0", x, slope=slope, padding=1)
    x = functional.conv2d(x, weights["output_block.1.weight"], weights["output_block.1.bias"])
    return x.tanh() if plan.tanh else x.sigmoid()


VARIANTS = [
    slow(plan_of("96")),
    plan_of("256"),
    replace(BY_NAME["288"], activation="prelu"),
    plan_of("384-leaky"),
    plan_of("own-256"),
    plan_of("sam", 384, "normalized"),
    slow(plan_of("288")),
    slow(plan_of("own-192")),
    slow(plan_of("384")),
    slow(plan_of("sam", 192, "off")),
    slow(plan_of("sam", 192, "plain")),
]
NAMES = {"ids": lambda plan: f"{plan.name}-{plan.size}-{plan.activation}-{plan.audio_refine}"}


@pytest.mark.parametrize("plan", VARIANTS, **NAMES)
@torch.inference_mode()
def test_forward_equals_an_independent_one(plan: Plan) -> None:
    network = generator_of(plan).double()
    mels, faces = random_input(1, plan.size)
    expected = plain_forward(dict(network.state_dict()), plan, mels, faces).clamp(min=0)
    assert expected.std() > 0.001
    torch.testing.assert_close(network(mels, faces), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("plan", VARIANTS[2:], **NAMES)
@torch.inference_mode()
def test_top_row_gives_the_same_rows(plan: Plan) -> None:
    network = generator_of(plan).double()
    mels, faces = random_input(1, plan.size)
    features = network.encode_faces(faces)
    whole = network.decode(mels, features)
    for row in (1, plan.size * 44 // 96, plan.size * 3 // 4, plan.size - 1):
        part = network.decode(mels, features, top_row=row)
        torch.testing.assert_close(part, whole[:, :, row:], rtol=0, atol=1e-9)


def test_rows_above_the_mouth_are_not_computed_at_any_size() -> None:
    assert first_rows(44, [96, 48, 24, 12, 6, 3, 1]) == [40, 18, 6, 0, 0, 0, 0]
    rows = first_rows(176, [384, 192, 96, 48, 24, 12, 6, 4])
    assert rows == [172, 84, 40, 18, 6, 0, 0, 0]


# Files


FORMS = ["Adam", "module.", "bare", "discriminator beside", "nested", "in one dict"]


@pytest.mark.parametrize(
    ("name", "form"), [*(("256", form) for form in FORMS), *(slow("sam", form) for form in FORMS)]
)
def test_published_forms_of_files(name: str, form: str, tmp_path: Path) -> None:
    network = generator_of(plan_of(name))
    weights, other = dict(network.state_dict()), {"binary_pred.0.weight": torch.zeros(1, 64, 1, 1)}
    adam = {"state": {0: {"exp_avg": torch.zeros(2, 2)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]}
    content: dict[str, Any] = {
        "Adam": {"state_dict": weights, "optimizer": adam, "global_step": 7, "global_epoch": 1},
        "module.": {"state_dict": {f"module.{key}": value for key, value in weights.items()}},
        "bare": weights,
        "discriminator beside": {"state_dict": weights, "disc_state_dict": other, "disc_optimizer": adam},
        "nested": {"discriminator": other, "generator": weights},
        "in one dict": weights | {f"disc.{key}": value for key, value in other.items()},
    }[form]
    torch.save(content, tmp_path / "any_name_96.pth")
    loaded = load(tmp_path / "any_name_96.pth", "generator")
    assert loaded.plan is not None and (loaded.plan.name, loaded.width) == (name, SMALL)
    mels, faces = torch.rand(1, 1, 80, 16), torch.rand(1, 6, 256, 256)
    torch.testing.assert_close(loaded.network()(mels, faces), network(mels, faces))


@pytest.mark.parametrize(
    "name", [slow(name) if name in ("288", "384", "own-192") else name for name in BY_NAME]
)
def test_design_is_told_by_the_weights_whatever_is_beside_them(name: str, tmp_path: Path) -> None:
    network = Wav2Lip(SMALL, BY_NAME[name])
    adam = torch.optim.Adam(network.parameters())
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    adam.step()
    weights = OrderedDict((f"module.{key}", value) for key, value in network.state_dict().items())
    disc = {"state_dict": {"binary_pred.0.weight": torch.zeros(1, 64, 1, 1)}}
    content = {"state_dict": weights, "optimizer": adam.state_dict(), "global_step": 9, "disc": disc}
    torch.save(content, tmp_path / "x.pth")
    loaded = load(tmp_path / "x.pth", "generator")
    assert loaded.plan == BY_NAME[name]
    assert getattr(loaded.network(), "face_size") == BY_NAME[name].size  # noqa: B009


def test_learned_slopes_are_loaded(tmp_path: Path) -> None:
    network = generator_of(replace(BY_NAME["288"], activation="prelu"))
    save(tmp_path / "x.pth", network)
    loaded = load(tmp_path / "x.pth", "generator")
    assert loaded.plan is not None and loaded.plan.activation == "prelu"
    assert "audio_encoder.12.act.weight" in loaded.weights


def other_kernel(weights: dict[str, Tensor]) -> None:
    weights["face_decoder_blocks.8.0.conv_block.0.weight"] = torch.zeros(12, 10, 3, 3)


def one_stage_more(weights: dict[str, Tensor]) -> None:
    weights["face_encoder_blocks.9.0.conv_block.0.weight"] = torch.zeros(64, 64, 1, 1)


def attention_of_another_name(weights: dict[str, Tensor]) -> None:
    weights["cbam.sa.conv1.weight"] = torch.zeros(1, 2, 7, 7)


def no_first_channels(weights: dict[str, Tensor]) -> None:
    weights["face_encoder_blocks.0.0.conv_block.0.weight"] = torch.zeros(0, 6, 7, 7)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (other_kernel, r"1 of its .*face_decoder_blocks\.8\.0.* \(\[12, 10, 3, 3\], not \[12, 8, 3, 3\]\)"),
        (one_stage_more, r"face_encoder_blocks\.9\.0.* \(\[64, 64, 1, 1\], not none\)"),
        (attention_of_another_name, r"1 of its .*'cbam\.sa\.conv1\.weight' \(\[1, 2, 7, 7\]"),
        (no_first_channels, r"face_encoder_blocks\.0\.0.* \(\[0, 6, 7, 7\]"),
    ],
)
def test_unknown_design_is_refused_by_its_first_difference(change: Any, named: str, tmp_path: Path) -> None:
    weights = Wav2Lip(SMALL, BY_NAME["288"]).state_dict()
    change(weights)
    torch.save(weights, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=rf"x\.pth .*{named}.*hd\.md") as refused:
        load(tmp_path / "x.pth", "generator")
    assert "\n" not in str(refused.value)


def test_size_of_a_design_that_fits_several(tmp_path: Path) -> None:
    save(tmp_path / "x.pth", Wav2Lip(SMALL, BY_NAME["sam"]))
    loaded = load(tmp_path / "x.pth", "generator", Design(face_size=192))
    assert loaded.plan is not None and loaded.plan.size == 192
    with pytest.raises(UsageError, match="--face_size 256.*192 or 384"):
        load(tmp_path / "x.pth", "generator", Design(face_size=256))
    with pytest.raises(UsageError, match="audio_refine"):
        load(tmp_path / "x.pth", "generator", Design(audio_refine="plain"))


# The use of audio_refine


@pytest.mark.parametrize("refine", ["off", "plain", "normalized"])
def test_audio_refine_is_measured(refine: AudioRefine, tmp_path: Path) -> None:
    network = Wav2Lip(8, plan_of("sam", 192, refine)).train()
    with torch.no_grad():
        for _ in range(30):  # of a training: the part that the audio passes before it meets a face
            network.face_decoder_blocks[0](network.encode_audio(torch.rand(8, 1, 80, 16) * 8 - 4))
    assert measured_refine(network.state_dict()) == refine
    save(tmp_path / "x.pth", network)
    assert load(tmp_path / "x.pth", "generator").plan == replace(BY_NAME["sam"], audio_refine=refine)
    forced = load(tmp_path / "x.pth", "generator", Design(audio_refine="plain")).plan
    assert forced is not None and forced.audio_refine == "plain"


@pytest.mark.any_device
@pytest.mark.npu_only
@pytest.mark.parametrize(
    "plan", [replace(BY_NAME["288"], activation="prelu"), plan_of("384-leaky"), plan_of("384")], **NAMES
)
@torch.inference_mode()
def test_designs_run_on_an_npu(plan: Plan) -> None:
    network = generator_of(plan)
    mels, faces = (values.float() for values in random_input(1, plan.size))
    expected = network(mels, faces)
    measured = network.to(DEVICE)(mels.to(DEVICE), faces.to(DEVICE)).cpu()
    torch.testing.assert_close(measured, expected, rtol=0, atol=1e-3)
