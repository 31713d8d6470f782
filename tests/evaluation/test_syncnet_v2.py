"""SyncNet v2: names and shapes of the published weights, the 2-D form, and reading of weights files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from support.devices import DEVICE
from support.networks import golden_weights
from wav2lip_npu.errors import CheckpointError, CheckpointMismatchError
from wav2lip_npu.models import checkpoint, syncnet_v2
from wav2lip_npu.models.networks import SyncNet
from wav2lip_npu.models.syncnet_v2 import SyncNetRunner, SyncNetV2
from wav2lip_npu.models.user_weights import find

PUBLISHED = {
    "netcnnaud.0.weight": (64, 1, 3, 3),
    "netcnnaud.4.weight": (192, 64, 3, 3),
    "netcnnaud.8.weight": (384, 192, 3, 3),
    "netcnnaud.11.weight": (256, 384, 3, 3),
    "netcnnaud.14.weight": (256, 256, 3, 3),
    "netcnnaud.18.weight": (512, 256, 5, 4),
    "netcnnaud.19.running_var": (512,),
    "netfcaud.0.weight": (512, 512),
    "netfcaud.3.weight": (1024, 512),
    "netfclip.1.running_mean": (512,),
    "netfclip.3.bias": (1024,),
    "netcnnlip.0.weight": (96, 3, 5, 7, 7),
    "netcnnlip.4.weight": (256, 96, 1, 5, 5),
    "netcnnlip.8.weight": (256, 256, 1, 3, 3),
    "netcnnlip.11.weight": (256, 256, 1, 3, 3),
    "netcnnlip.14.weight": (256, 256, 1, 3, 3),
    "netcnnlip.18.weight": (512, 256, 1, 6, 6),
}
"""Tensors of the published file, of which the others follow."""


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "syncnet_v2.model"
    torch.save(golden_weights(SyncNetV2(2)).state_dict(), path)
    return path


def test_names_and_shapes_are_the_published_ones():
    with torch.device("meta"):
        state = SyncNetV2().state_dict()
    assert {name: tuple(state[name].shape) for name in PUBLISHED} == PUBLISHED
    parameters = [tensor for name, tensor in state.items() if "running" not in name and "num_" not in name]
    assert sum(tensor.numel() for tensor in parameters) == 13_631_616
    assert len(state) == 102


@pytest.mark.any_device
def test_features_are_those_of_the_published_layers():
    network = golden_weights(SyncNetV2(2))
    strip = torch.randint(255, (9, 224, 224, 3), dtype=torch.uint8)
    sounds = torch.randn(4, 13, 20) * 10
    with torch.inference_mode():
        cube = strip.permute(3, 0, 1, 2).float()
        windows = torch.stack([cube[:, first : first + 5] for first in range(5)])
        faces = network.netfclip(network.netcnnlip(windows).flatten(1))
        audio = network.netfcaud(network.netcnnaud(sounds[:, None]).flatten(1))
    runner = SyncNetRunner(network, DEVICE)
    torch.testing.assert_close(runner.faces(strip).cpu(), faces, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(runner.audio(sounds).cpu(), audio, rtol=1e-3, atol=1e-3)
    rounded = SyncNetRunner(network, DEVICE, torch.bfloat16)
    for exact, feature in ((faces, rounded.faces(strip)), (audio, rounded.audio(sounds))):
        assert feature.dtype == torch.float32
        error = (feature.cpu() - exact).norm() / exact.norm()
        assert 0 < error < 0.05


def test_weights_file_is_loaded_and_identified(weights):
    loaded = syncnet_v2.load(weights)
    assert not loaded.is_published and len(loaded.sha256) == 64
    expected = golden_weights(SyncNetV2(2)).state_dict()
    for name, tensor in loaded.network.state_dict().items():
        torch.testing.assert_close(tensor, expected[name])


def test_other_network_is_refused(tmp_path):
    path = tmp_path / "expert.pth"
    checkpoint.save(path, SyncNet(width=2))
    with pytest.raises(CheckpointMismatchError, match="SyncNet"):
        syncnet_v2.load(path)


def test_code_in_a_weights_file_is_not_run(tmp_path):
    path = tmp_path / "syncnet_v2.model"
    torch.save(SyncNetV2(2), path)  # a pickled module, as `save` of the published code writes
    with pytest.raises(CheckpointError, match="code"):
        syncnet_v2.load(path)


def test_broken_weights_are_refused(tmp_path):
    state = SyncNetV2(2).state_dict()
    state["netfclip.3.bias"][0] = float("nan")
    torch.save(state, tmp_path / "a.model")
    with pytest.raises(CheckpointError, match=r"netfclip\.3\.bias"):
        syncnet_v2.load(tmp_path / "a.model")
    weight = SyncNetV2(2).state_dict()["netfclip.3.weight"]
    for form in (weight.to_sparse(), weight.to(torch.complex64), weight.int()):
        torch.save({**SyncNetV2(2).state_dict(), "netfclip.3.weight": form}, tmp_path / "b.model")
        with pytest.raises(CheckpointError):
            syncnet_v2.load(tmp_path / "b.model")


def test_missing_weights_are_not_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find(None, syncnet_v2.PATHS) is None
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "syncnet_v2.model").touch()
    assert find(None, syncnet_v2.PATHS) == syncnet_v2.PATHS[0]
    assert find("a.model", syncnet_v2.PATHS) == Path("a.model")
