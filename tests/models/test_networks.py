"""The networks: names, shapes and outputs of the original, and the additions to it."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from support.marks import slow
from support.networks import copying_generator, golden_weights
from wav2lip_npu.models.networks import NETWORKS, ConvBlock, LeakyBlock, Wav2Lip, fold_norms

GOLDEN = Path(__file__).parents[1] / "resources"
FILES = {"generator": "wav2lip", "syncnet": "syncnet", "discriminator": "disc"}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Use one thread: small networks are not faster with more, and much slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def full() -> dict[str, nn.Module]:
    """The three networks at full width with the weights of the golden outputs."""
    return {kind: golden_weights(NETWORKS[kind]()) for kind in FILES}


@pytest.fixture(scope="module")
def inputs() -> dict[str, torch.Tensor]:
    draw = np.random.RandomState(11)
    mel_range, face_range = (-4, 4), (0, 1)
    shapes = {
        "frame_mel": (mel_range, (2, 1, 80, 16)),
        "frame_face": (face_range, (2, 6, 96, 96)),
        "window_mel": (mel_range, (1, 5, 1, 80, 16)),
        "window_face": (face_range, (1, 6, 5, 96, 96)),
        "sync_mel": (mel_range, (2, 1, 80, 16)),
        "sync_face": (face_range, (2, 15, 48, 96)),
        "disc_face": (face_range, (1, 3, 5, 96, 96)),
    }
    return {
        name: torch.from_numpy(draw.uniform(*span, shape).astype(np.float32))
        for name, (span, shape) in shapes.items()
    }


def random_input(batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(batch, 1, 80, 16) * 8 - 4, torch.rand(batch, 6, 96, 96)


@pytest.mark.parametrize("kind", FILES)
def test_golden_parameter_names(kind: str) -> None:
    with torch.device("meta"):
        state = NETWORKS[kind]().state_dict()
    golden = json.loads((GOLDEN / f"state_dict_{FILES[kind]}.json").read_text())
    assert [(name, list(tensor.shape)) for name, tensor in state.items()] == [
        (name, shape) for name, shape in golden.items()
    ]


@pytest.mark.parametrize("form", ["plain", slow("folded"), "folded, channels_last"])
def test_golden_outputs(form: str, full: dict[str, nn.Module], inputs: dict[str, torch.Tensor]) -> None:
    golden = np.load(GOLDEN / "forward.npz")
    networks = dict(full)
    if form != "plain":
        networks = {kind: copy.deepcopy(network) for kind, network in full.items()}
    for network in networks.values():
        if "folded" in form:
            fold_norms(network)
            assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
        if "channels_last" in form:
            network.to(memory_format=torch.channels_last)
    with torch.inference_mode():
        sync_audio, sync_face = networks["syncnet"](inputs["sync_mel"], inputs["sync_face"])
        outputs = {
            "gen_frame": networks["generator"](inputs["frame_mel"], inputs["frame_face"]),
            "gen_window": networks["generator"](inputs["window_mel"], inputs["window_face"]),
            "sync_audio": sync_audio,
            "sync_face": sync_face,
            "disc": networks["discriminator"](inputs["disc_face"]),
        }
    assert outputs.keys() == set(golden.keys()) - {"seed"}
    for name, output in outputs.items():
        np.testing.assert_allclose(output.numpy(), golden[name], rtol=0, atol=1e-4, err_msg=name)


@torch.inference_mode()
def test_top_row_gives_the_same_rows() -> None:
    network = golden_weights(Wav2Lip(2))
    mels, faces = random_input(1)
    features = network.encode_faces(faces)
    full_faces = network.decode(mels, features)
    for row in range(96):
        part = network.decode(mels, features, top_row=row)
        assert part.shape == (1, 3, 96 - row, 96)
        torch.testing.assert_close(part, full_faces[:, :, row:], rtol=0, atol=1e-5)


@torch.inference_mode()
def test_top_row_at_full_width(full: dict[str, nn.Module]) -> None:
    network = copy.deepcopy(full["generator"])
    assert isinstance(network, Wav2Lip)
    fold_norms(network)
    mels, faces = random_input(1)
    features = network.encode_faces(faces)
    full_faces = network.decode(mels, features)
    part = network.decode(mels, features, top_row=44)
    torch.testing.assert_close(part, full_faces[:, :, 44:], rtol=0, atol=1e-5)


@torch.inference_mode()
def test_one_face_is_used_for_all_mels() -> None:
    network = golden_weights(Wav2Lip(2))
    mels, faces = random_input(3)
    still = network.encode_faces(faces[:1])
    kept = [feature.clone() for feature in still]
    decoded = network.decode(mels, still, top_row=44)
    repeated = network(mels, faces[:1].expand(3, -1, -1, -1))
    torch.testing.assert_close(decoded, repeated[:, :, 44:], rtol=0, atol=1e-5)
    assert all(torch.equal(now, before) for now, before in zip(still, kept, strict=True))


@torch.inference_mode()
def test_window_equals_its_frames() -> None:
    network = golden_weights(Wav2Lip(2))
    mels, faces = torch.rand(2, 5, 1, 80, 16), torch.rand(2, 6, 5, 96, 96)
    window = network(mels, faces)
    assert window.shape == (2, 3, 5, 96, 96)
    for time in range(5):
        torch.testing.assert_close(
            window[:, :, time], network(mels[:, time], faces[:, :, time]), rtol=0, atol=1e-5
        )


@torch.inference_mode()
def test_discriminator_sees_mouth_regions_in_time_major_order() -> None:
    network = golden_weights(NETWORKS["discriminator"](2))
    faces = torch.rand(2, 3, 5, 96, 96)
    together = network(faces)
    assert together.shape == (10, 1)
    for time in range(5):
        torch.testing.assert_close(together[2 * time : 2 * time + 2], network(faces[:, :, time : time + 1]))
    faces[:, :, :, :48] = 0
    torch.testing.assert_close(network(faces), together)


@pytest.mark.parametrize("width", [2, 6])
@pytest.mark.parametrize("kind", FILES)
def test_width_scales_every_layer(kind: str, width: int) -> None:
    with torch.device("meta"):
        network = NETWORKS[kind](width).eval()
        full = NETWORKS[kind]()
        assert network.width == width
        assert list(network.state_dict()) == list(full.state_dict())
        if kind == "generator":
            assert network(torch.zeros(1, 1, 80, 16), torch.zeros(1, 6, 96, 96)).shape == (1, 3, 96, 96)
        elif kind == "syncnet":
            audio, mouths = network(torch.zeros(1, 1, 80, 16), torch.zeros(1, 15, 48, 96))
            assert audio.shape == mouths.shape == (1, 16 * width)


@pytest.mark.parametrize("width", [-2, 0, 1, 3, 33])
@pytest.mark.parametrize("kind", FILES)
def test_bad_width_is_refused(kind: str, width: int) -> None:
    with pytest.raises(ValueError, match=f"width {width} is not an even number of at least 2"):
        NETWORKS[kind](width)


@torch.inference_mode()
def test_embeddings_are_unit_vectors() -> None:
    embeddings = golden_weights(NETWORKS["syncnet"](2))(torch.rand(4, 1, 80, 16), torch.rand(4, 15, 48, 96))
    for embedding in embeddings:
        torch.testing.assert_close(embedding.norm(dim=1), torch.ones(4))
        assert (embedding >= 0).all()


@pytest.mark.parametrize(
    "block", [ConvBlock(4, 4, 3, residual=True), ConvBlock(4, 4, 3), LeakyBlock(4, 4, 3)]
)
def test_in_place_operations_keep_input_and_gradient(block: nn.Module) -> None:
    x = torch.randn(2, 4, 5, 5, requires_grad=True)
    before = x.detach().clone()
    y = block(x)
    if isinstance(block, ConvBlock):
        plain = functional.relu(block.conv_block(x) + (x if block.residual else 0))
    else:
        plain = functional.leaky_relu(block.conv_block(x), 0.01)
    torch.testing.assert_close(y, plain)
    assert torch.equal(x.detach(), before)
    weights = torch.randn_like(y)
    for ours, theirs in zip(
        torch.autograd.grad((y * weights).sum(), [x, *block.parameters()]),
        torch.autograd.grad((plain * weights).sum(), [x, *block.parameters()]),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_all_parameters_have_a_gradient() -> None:
    network = Wav2Lip(2).train()
    mels, faces = torch.rand(1, 2, 1, 80, 16), torch.rand(1, 6, 2, 96, 96)
    network(mels, faces).mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@torch.inference_mode()
def test_copying_generator_returns_the_reference() -> None:
    network = copying_generator()
    mels, faces = random_input(1)
    assert (network(mels, faces) - faces[:, 3:]).abs().max() < 3 / 255
