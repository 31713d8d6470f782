"""Compiled and captured steps, and the speed in the log."""

from __future__ import annotations

import logging
import shutil

import pytest
import torch

from support.devices import DEVICE
from support.trainings import GENERATOR, SYNCNET, assert_same_checkpoints, command, train, weights
from wav2lip_npu.cli import main
from wav2lip_npu.devices import compilation
from wav2lip_npu.training.pace import Pace

pytestmark = pytest.mark.any_device


def replayed(function, _device):
    """Run a function a few times, as before a capture, and return it."""
    for _ in range(3):
        function()
    return function


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        pytest.param(SYNCNET, {"accumulate": 2}, marks=pytest.mark.slow),
        pytest.param(GENERATOR, {"sync_gate": 100, "expert_bn": "batch"}, marks=pytest.mark.slow),
        (
            GENERATOR,
            {"sync_from": 2, "disc_from": 3, "ramp_steps": 3, "patch_disc_wt": 0.3, "gradient_weight": 0.5,
             "motion_weight": 0.5, "reference_mouth_warp": 1, "silence": 0.5, "weight_decay": 0.1, "compile": "graph"},
        ),
    ],
)  # fmt: skip
def test_captured_steps_equal_plain_ones(clips, tmp_path, monkeypatch, words, flags):
    """The runs before the capture change nothing, and a loss that begins is captured again."""
    flags = {"data_on": "device", "steps": 4, "eval_interval": 2, "compile": "on", **flags}
    plain = train(clips, tmp_path / "plain", words, **{**flags, "compile": "off"})
    captures = []
    monkeypatch.setattr(compilation, "check_compile", lambda device: None)
    monkeypatch.setattr(compilation, "compiled", lambda network, device: network)
    monkeypatch.setattr(compilation, "captures_graphs", lambda device: True)
    monkeypatch.setattr(compilation, "captured", lambda *given: captures.append(given) or replayed(*given))
    graphed = train(clips, tmp_path / "graphed", words, **flags)
    assert_same_checkpoints(plain, graphed, 4)
    assert len(captures) == (1 if words == SYNCNET else 3 if "disc_from" in flags else 2)


def test_compiled_training_without_a_compiler(clips, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    if DEVICE.type == "cuda":
        pytest.skip("CUDA builds of torch bring their compiler")
    assert main.main(command(clips, tmp_path / "out", SYNCNET, steps=1, compile="on")) == 2
    message = capsys.readouterr().err
    assert "--compile" in message and ("torchair" if DEVICE.type == "npu" else "compiler") in message


@pytest.mark.skipif(DEVICE.type == "cuda", reason="CUDA captures graphs")
def test_graphs_without_cuda(clips, tmp_path, capsys):
    assert main.main(command(clips, tmp_path / "out", SYNCNET, steps=1, compile="graph")) == 2
    assert "--compile graph" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(DEVICE.type == "npu", reason="the simulation does not compile")
def test_compiled_training_is_close_to_a_plain_one(clips, tmp_path, monkeypatch):
    """The networks are traced and differentiated; the kernels, which take minutes to compile, stay PyTorch's."""

    def traced(network, _device):
        return torch.compile(network, backend="aot_eager", dynamic=False)

    monkeypatch.setattr(compilation, "compiled", traced)
    for words in (SYNCNET, GENERATOR):
        flags = {"steps": 2, "data_on": "device", "eval_interval": 100}
        plain = train(clips, tmp_path / f"{words[0]}_plain", words, **flags)
        compiled = train(clips, tmp_path / f"{words[0]}_compiled", words, compile="on", **flags)
        one, other = (weights(out / "checkpoint_step000000002.pth") for out in (plain, compiled))
        assert list(one) == list(other)
        assert max(float((one[name] - other[name]).abs().max()) for name in one) < 0.02


def test_speed_in_the_log(clips, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        train(clips, tmp_path / "out", SYNCNET, steps=3, log_interval=2, data_on="host")
    lines = [line for line in map(logging.LogRecord.getMessage, caplog.records) if "windows/s" in line]
    assert [line[:12] for line in lines] == ["step 2: bce ", "step 3: bce "]  # also of the last steps


def test_pace():
    now = [0.0]
    pace = Pace(lambda: now[0])

    def after(seconds: float) -> None:
        now[0] += seconds

    with pace.step():
        with pace.waiting():
            after(1)
        pace.add(600)
        after(2)
    after(100)  # an evaluation
    assert pace.pop() == "200 windows/s, 33% waiting for data"
    assert pace.pop().startswith("0 windows/s")
