"""Packed convolutions compute what the blocks compute that they replace."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from support.networks import golden_weights
from wav2lip_npu.devices import number_formats
from wav2lip_npu.models.blocks import ConvBlock, UpBlock, fold_norms
from wav2lip_npu.models.generator import Wav2Lip
from wav2lip_npu.models.packed import PackedConvolution, pack_convolutions
from wav2lip_npu.models.placement import place

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
TYPES = [torch.float32, torch.bfloat16]
BLOCKS = {
    "plain": ConvBlock(6, 8, 7, 1, 3),
    "stride": ConvBlock(6, 8, 3, (3, 2)),
    "residual": ConvBlock(6, 6, 3, residual=True),
    "leaky residual": ConvBlock(6, 6, 3, residual=True, activation="leaky"),
    "learned slope": ConvBlock(6, 8, 3, activation="prelu"),
    "upwards": UpBlock(6, 8),
    "from one pixel": UpBlock(6, 8, 3, 1, 0, 0),
}


@pytest.fixture(params=TYPES, ids=str)
def dtype(request):
    if not number_formats.has_packed_convolutions(CPU, request.param):
        pytest.skip(f"this CPU has no packed convolutions in {request.param}")
    return request.param


@pytest.mark.parametrize("name", BLOCKS)
def test_block(name, dtype):
    torch.manual_seed(0)
    block = nn.Sequential(copy.deepcopy(BLOCKS[name]).eval())
    fold_norms(block)
    block = block.to(dtype, memory_format=torch.channels_last)
    packed = copy.deepcopy(block)
    pack_convolutions(packed)
    with torch.inference_mode():
        for batch, rows in ((3, 12), (1, 9)):  # the weights are packed for the first shape
            x = torch.randn(batch, 6, rows, 12).to(dtype, memory_format=torch.channels_last)
            expected, y = block(x), packed(x)
            assert y.dtype == dtype and y.is_contiguous(memory_format=torch.channels_last)
            torch.testing.assert_close(y, expected, atol=1e-5 if dtype == torch.float32 else 0.05, rtol=0.02)
    assert any(isinstance(module, PackedConvolution) for module in packed.modules())


def test_weights_are_packed_once_for_all_threads(dtype):
    network = golden_weights(Wav2Lip(2)).eval()
    place(network, CPU, dtype)
    layers = [module for module in network.modules() if isinstance(module, PackedConvolution)]
    assert len(layers) > 50
    assert not any(isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) for module in network.modules())
    faces, mels = torch.rand(2, 6, 96, 96).to(dtype), torch.rand(2, 1, 80, 16).to(dtype)

    @torch.inference_mode()
    def run(_):
        return network.decode(mels, network.encode_faces(faces))

    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(run, range(4))
    assert all(torch.equal(first, other) for other in others)
    assert all(layer.weight is None for layer in layers)


@pytest.mark.parametrize("dtype", [torch.float16, *TYPES], ids=str)
def test_cpu_without_the_kernels(dtype, monkeypatch):
    monkeypatch.setattr(number_formats, "_cpu_flags", frozenset)
    assert not number_formats.has_packed_convolutions(CPU, dtype)
    network = golden_weights(Wav2Lip(2)).eval()
    place(network, CPU, dtype)
    assert not any(isinstance(module, PackedConvolution) for module in network.modules())
