"""Generators that are compiled: one shape, the same mouths, and refusal where it is impossible."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from support.networks import golden_weights
from wav2lip_npu.devices import compilation
from wav2lip_npu.dubbing.blend import load_mask
from wav2lip_npu.dubbing.inference import GeneratorRunner, load_models
from wav2lip_npu.errors import DeviceError, UsageError
from wav2lip_npu.models.generator import Wav2Lip
from wav2lip_npu.models.placement import place

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")


def mouths(models, count):
    """Return the mouths of random faces and mels, whose last batch is not full."""
    random = np.random.default_rng(0)
    faces = list(random.integers(0, 255, (count, 96, 96, 3), np.uint8))
    mels = list(random.uniform(-4, 4, (count, 80, 16)).astype(np.float32))
    return np.stack(GeneratorRunner(models, None, load_mask("soft", 96))(faces, mels)).astype(int)


def test_functions_are_compiled_for_one_shape(tiny_checkpoint, monkeypatch):
    shapes = []

    def compiled(function, device, *, is_frozen):
        assert is_frozen and device == CPU

        def run(*tensors, **options):
            flat = [part for item in tensors for part in (item if isinstance(item, list) else [item])]
            shapes.append((*(tuple(tensor.shape) for tensor in flat), *options.items()))
            return function(*tensors, **options)

        return run

    monkeypatch.setattr(compilation, "compiled", compiled)
    monkeypatch.setattr(compilation, "check_compile", lambda device: None)
    loading = {"detector": "hog", "device": "cpu", "precision": "fp32"}
    models = load_models(tiny_checkpoint, compile="on", **loading)
    difference = np.abs(mouths(models, 10) - mouths(load_models(tiny_checkpoint, **loading), 10))
    assert difference.max() <= 1 and difference.mean() < 0.01
    assert len(shapes) == 6 and len(set(shapes)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_generator_makes_the_same_mouths(tiny_checkpoint, precision):
    if not shutil.which("g++"):
        pytest.skip("g++ is not installed")
    loading = {"detector": "hog", "device": "cpu", "precision": precision}
    torch._dynamo.reset()
    with torch._dynamo.config.patch(error_on_recompile=True):
        compiled = mouths(load_models(tiny_checkpoint, compile="on", **loading), 20)
    difference = np.abs(compiled - mouths(load_models(tiny_checkpoint, **loading), 20))
    assert difference.mean() < (0.01 if precision == "fp32" else 1)


def test_compiling_without_a_compiler_is_refused(tiny_checkpoint, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda *_: None)
    with pytest.raises(DeviceError, match="--compile on"):
        load_models(tiny_checkpoint, compile="on", detector="hog", device="cpu")


@pytest.mark.parametrize(("path", "value"), [("model.onnx", "on"), ("starter", "graph")])
def test_wrong_values_are_refused(path, value):
    with pytest.raises(UsageError, match="compile"):
        load_models(path, compile=value, detector="hog", device="cpu")


def test_last_layer_stays_in_float32():
    network = golden_weights(Wav2Lip(2)).eval()
    place(network, CPU, torch.bfloat16)
    last = network.output_block[1]
    assert {parameter.dtype for parameter in last.parameters()} == {torch.float32}
    others = {id(parameter) for parameter in network.parameters()} - {id(p) for p in last.parameters()}
    assert all(p.dtype == torch.bfloat16 for p in network.parameters() if id(p) in others)
    with torch.inference_mode():
        faces = torch.rand(2, 6, 96, 96, dtype=torch.bfloat16)
        result = network.decode(torch.rand(2, 1, 80, 16, dtype=torch.bfloat16), network.encode_faces(faces))
    assert result.dtype == torch.float32
