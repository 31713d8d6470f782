"""Light-ASD: the published names and shapes, and the same scores as a slow forward pass written apart."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from support.devices import DEVICE
from wav2lip_npu.errors import CheckpointError
from wav2lip_npu.models import light_asd

Weights = dict[str, torch.Tensor]


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Return names and shapes as in `finetuning_TalkSet.model` and `pretrain_AVA_CVPR.model`."""
    shapes: dict[str, tuple[int, ...]] = {}

    def norm(name: str, channels: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (channels,)
        shapes[f"{name}.num_batches_tracked"] = ()

    for encoder, first, dims in (("visualEncoder", "s", 3), ("audioEncoder", "m", 2)):
        channels = 1
        for number, out in ((1, 32), (2, 64), (3, 128)):
            block = f"model.{encoder}.block{number}"
            for size in (3, 5):
                kernels = ((1, size, size), (size, 1, 1)) if dims == 3 else ((size, 1), (1, size))
                shapes[f"{block}.{first}_{size}.weight"] = (out, channels, *kernels[0])
                norm(f"{block}.bn_{first}_{size}", out)
                shapes[f"{block}.t_{size}.weight"] = (out, out, *kernels[1])
                norm(f"{block}.bn_t_{size}", out)
            shapes[f"{block}.last.weight"] = (out, out, *[1] * dims)
            norm(f"{block}.bn_last", out)
            channels = out
    for gru in ("gru_forward", "gru_backward"):
        for part in ("weight_ih_l0", "weight_hh_l0"):
            shapes[f"model.GRU.{gru}.{part}"] = (384, 128)
        for part in ("bias_ih_l0", "bias_hh_l0"):
            shapes[f"model.GRU.{gru}.{part}"] = (384,)
    for head in ("lossAV", "lossV"):
        shapes |= {f"{head}.FC.weight": (2, 128), f"{head}.FC.bias": (2,)}
    return shapes


@pytest.fixture(scope="module")
def weights() -> Weights:
    random = torch.Generator().manual_seed(0)

    def values(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if name.endswith("num_batches_tracked"):
            return torch.tensor(7)
        if name.endswith(("running_var", "bn.weight")):
            return torch.rand(shape, generator=random) + 0.5
        fan = max(1, int(np.prod(shape[1:])))
        return torch.randn(shape, generator=random) * (2 / fan) ** 0.5

    return {name: values(name, shape) for name, shape in published_shapes().items()}


@pytest.fixture(scope="module")
def published(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("asd") / "asd.model"
    torch.save(weights, path)
    return path


def test_published_file_has_about_a_million_parameters(weights):
    assert len(weights) == 192
    assert sum(value.numel() for value in weights.values()) == 1_026_146


@pytest.mark.any_device
def test_scores_are_those_of_a_slow_forward_pass(weights, published):
    network = light_asd.load(published, DEVICE)
    random = np.random.default_rng(0)
    faces = random.integers(0, 256, (1, 5, 112, 112), np.uint8)
    mfcc = random.normal(0, 5, (1, 20, 13)).astype(np.float32)
    with torch.inference_mode():
        seen = network.encode_faces(torch.from_numpy(faces).to(DEVICE))
        heard = network.encode_audio(torch.from_numpy(mfcc).to(DEVICE))
        scores = network.scores(seen, heard).cpu().numpy()
    expected = slow_scores(weights, faces[0], mfcc[0])
    np.testing.assert_allclose(scores[0], expected, atol=2e-3)
    assert np.ptp(expected) > 0.05


def slow_scores(weights: Weights, faces: np.ndarray, mfcc: np.ndarray) -> np.ndarray:
    """Return the scores [T] as the paper describes the network, in float64, with 3-D convolutions."""
    exact = {name: value.double() for name, value in weights.items()}
    grey = (torch.from_numpy(faces).double() / 255 - 0.4161) / 0.1688
    seen = _encoded(exact, "model.visualEncoder", grey[None, None], "s")
    seen = seen.flatten(3).max(dim=3).values[0].T
    sound = torch.from_numpy(mfcc).double().T[None, None, None]
    heard = _encoded(exact, "model.audioEncoder", sound, "m")[0, :, 0].mean(dim=1).T
    forwards = _gelu(_gru(exact, "model.GRU.gru_forward", seen + heard))
    backwards = _gelu(_gru(exact, "model.GRU.gru_backward", forwards.flip(0)).flip(0))
    return (backwards @ exact["lossAV.FC.weight"].T + exact["lossAV.FC.bias"])[:, 1].numpy()


def _encoded(weights: Weights, name: str, values: torch.Tensor, first: str) -> torch.Tensor:
    """Return the output [B, C, D, H, W] of an encoder; audio is one image whose columns are time."""

    def layer(values: torch.Tensor, layer_name: str, stride: tuple[int, ...]) -> torch.Tensor:
        block, _, part = layer_name.rpartition(".")
        weight = weights[f"{layer_name}.weight"]
        weight = weight if weight.dim() == 5 else weight[:, :, None]
        padding = [size // 2 for size in weight.shape[2:]]
        values = torch.nn.functional.conv3d(values, weight, stride=stride, padding=padding)
        mean, variance, scale, shift = (
            weights[f"{block}.bn_{part}.{kind}"][:, None, None, None]
            for kind in ("running_mean", "running_var", "weight", "bias")
        )
        return ((values - mean) / (variance + 0.001).sqrt() * scale + shift).clamp(min=0)

    for number in (1, 2, 3):
        block = f"{name}.block{number}"
        stride = (1, 2, 2) if number == 1 and first == "s" else (1, 1, 1)
        values = sum(
            layer(layer(values, f"{block}.{first}_{size}", stride), f"{block}.t_{size}", (1, 1, 1))
            for size in (3, 5)
        )
        values = layer(values, f"{block}.last", (1, 1, 1))
        if number < 3:
            kernel = ((1, 3, 3), (1, 2, 2), (0, 1, 1)) if first == "s" else ((1, 1, 3), (1, 1, 2), (0, 0, 1))
            values = torch.nn.functional.max_pool3d(values, *kernel)
    return values


def _gelu(values: torch.Tensor) -> torch.Tensor:
    return values * (1 + torch.erf(values / 2**0.5)) / 2


def _gru(weights: Weights, name: str, inputs: torch.Tensor) -> torch.Tensor:
    state, states = torch.zeros(128).double(), []
    for row in inputs:
        of_input = weights[f"{name}.weight_ih_l0"] @ row + weights[f"{name}.bias_ih_l0"]
        of_state = weights[f"{name}.weight_hh_l0"] @ state + weights[f"{name}.bias_hh_l0"]
        reset, update = torch.sigmoid(of_input[:256] + of_state[:256]).chunk(2)
        new = torch.tanh(of_input[256:] + reset * of_state[256:])
        state = (1 - update) * new + update * state
        states.append(state)
    return torch.stack(states)


def test_another_network_is_refused(weights, tmp_path):
    path = tmp_path / "other.model"
    torch.save(weights | {"model.GRU.gru_forward.weight_ih_l0": torch.zeros(384, 64)}, path)
    with pytest.raises(CheckpointError, match=r"other\.model is not Light-ASD: .*--asd"):
        light_asd.load(path, DEVICE)


def test_code_in_the_file_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "run"), "w"))

    path = tmp_path / "evil.model"
    path.write_bytes(pickle.dumps({"model.GRU.gru_forward.weight_ih_l0": Evil()}))
    with pytest.raises(CheckpointError):
        light_asd.load(path, DEVICE)
    assert not (tmp_path / "run").exists()
