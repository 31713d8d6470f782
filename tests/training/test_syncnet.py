"""The expert's step, how it is judged, and what the log says when it only guesses."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
import torch
from torch import nn

from support.clip_folders import CodeReader, write_clip
from support.devices import DEVICE
from support.networks import golden_weights
from support.trainings import SYNCNET, command, lines, train
from wav2lip_npu import device
from wav2lip_npu.cli import main
from wav2lip_npu.data.clip import read_clip
from wav2lip_npu.data.face_reader import FaceReader
from wav2lip_npu.data.samples import Batch
from wav2lip_npu.errors import DataError
from wav2lip_npu.models.networks import SyncNet
from wav2lip_npu.training import syncnet
from wav2lip_npu.training.loop import _advance, trainee
from wav2lip_npu.training.options import TrainOptions
from wav2lip_npu.training.state import TrainState
from wav2lip_npu.training.sync_offset import Similarities
from wav2lip_npu.training.syncnet import judge, make_evaluate, make_step

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.any_device]


def training(network: nn.Module | None = None) -> TrainState:
    options = TrainOptions()
    trained = trainee("syncnet", network or golden_weights(SyncNet(2)), options, DEVICE)
    return TrainState({"syncnet": trained}, DEVICE, device.grad_scaler(DEVICE, "off", "dynamic"))


@pytest.mark.host_only
def test_a_step_of_the_original_recipe_is_the_originals(monkeypatch):
    random = np.random.default_rng(0)
    mels = random.uniform(-4, 4, (4, 80, 16))
    faces = random.integers(255, size=(4, 5, 48, 96, 3), dtype=np.uint8)
    in_sync = np.array([1, 0, 0, 1.0])
    theirs = golden_weights(SyncNet(2)).double().train()
    adam = torch.optim.Adam(theirs.parameters(), 1e-4)
    stacked = torch.from_numpy(np.concatenate([faces[:, k] for k in range(5)], axis=3)) / 255.0
    a, v = theirs(torch.from_numpy(mels)[:, None], stacked.permute(0, 3, 1, 2).double())
    loss = nn.BCELoss()(nn.functional.cosine_similarity(a, v), torch.from_numpy(in_sync))
    loss.backward()
    adam.step()
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    state = training()
    state.main.network.double()
    step = make_step(state, "off")
    batch = Batch(0, 4, {"mels": mels, "faces": faces, "in_sync": in_sync})
    values, _ = _advance(state, iter([batch]), step, TrainOptions(), threading.Event(), str)
    assert values["bce"] == pytest.approx(loss.item(), abs=1e-5)
    for (name, ours), value in zip(state.main.network.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(ours, value, rtol=0, atol=2e-6, msg=name)


def table(cosines: torch.Tensor, first: int = 0) -> Similarities:
    return Similarities(np.arange(first, first + len(cosines)), cosines)


def test_figures_of_a_known_table():
    """Half the original's pairs are in sync, half are any other window of the clip."""
    cosines = torch.full((40, 40), 0.25) + torch.eye(40) * 0.5
    found = judge(iter([table(cosines), table(cosines[:10, :10])]), DEVICE)
    assert found["bce"] == pytest.approx(-math.log(0.75), abs=1e-5)
    assert (found["accuracy"], found["retrieval"], found["clip_retrieval"]) == (1, 1, 1)
    assert (found["in_sync"], found["out_of_sync"]) == pytest.approx((0.75, 0.25))
    half = torch.full((10, 10), 0.5)
    assert judge(iter([table(half)]), DEVICE) == pytest.approx(
        {"bce": math.log(2), "accuracy": 0.5, "in_sync": 0.5, "out_of_sync": 0.5}
    )
    late = torch.roll(cosines, 5, dims=0)  # the best sound is five windows away
    assert judge(iter([table(late)]), DEVICE)["retrieval"] == 0
    near = torch.roll(cosines, 1, dims=0)
    assert judge(iter([table(near)]), DEVICE)["retrieval"] == 1
    with pytest.raises(DataError, match="no held-out clip can be read"):
        judge(iter([]), DEVICE)


def test_an_expert_that_knows_is_judged_so_and_broken_clips_are_left_out(tmp_path, caplog):
    clips = [read_clip(name, write_clip(tmp_path / name, 60)) for name in "ab"]
    state = training()
    state.main.network = CodeReader()
    found = make_evaluate(state, clips, FaceReader(cache=False))(None)
    assert found["accuracy"] > 0.85
    assert found["clip_retrieval"] == 1
    (tmp_path / "b" / "20.jpg").write_bytes(b"")
    again = make_evaluate(state, clips, FaceReader(cache=False))(None)
    assert "b is left out: cannot read" in caplog.text
    assert again != found


def test_guessing_is_told_when_it_lasts(caplog, monkeypatch):
    asked = []

    def why():
        asked.append(1)
        return ["3 of 4 clips have no speech. Drop them."]

    figures = iter([(0.69, 0.5), (0.69, 0.5), (0.69, 0.5), (0.5, 0.8), (0.69, 0.5), (0.69, 0.5), (0.69, 0.9)])
    monkeypatch.setattr(
        syncnet, "judge", lambda *each: dict(zip(("bce", "accuracy"), next(figures), strict=True))
    )
    evaluate = make_evaluate(training(), [], FaceReader(), when_guessing=why)
    told = []
    for _ in range(7):
        caplog.clear()
        evaluate(None)
        told.append("ln 2 = 0.69" in caplog.text and "no speech" in caplog.text)
    assert told == [False, True, True, False, False, True, False]


def test_the_doctor_is_asked_once(clips, tmp_path, caplog, monkeypatch):
    from wav2lip_npu.training import session

    calls = []
    real = session.examine

    def examine(*arguments, **more):
        calls.append(1)
        return real(*arguments, **more)

    monkeypatch.setattr(session, "examine", examine)
    monkeypatch.setattr(syncnet, "_GUESSING", (0.0, 1.1))
    train(clips, tmp_path, SYNCNET, steps=3, eval_interval=1)
    assert len(calls) == 1
    assert caplog.text.count("the expert still guesses") == 2
    assert caplog.text.count("clips to train on, 50 are few") == 2


def test_curves_hold_the_figures(clips, tmp_path):
    out = train(clips, tmp_path, SYNCNET, steps=2, eval_interval=1, log_interval=1)
    (row, _) = lines(out, "held_out")
    assert set(row) == {"part", "step", "bce", "accuracy", "in_sync", "out_of_sync"}
    assert set(lines(out, "train")[0]) == {"part", "step", "bce", "in_sync", "out_of_sync", "skipped"}
    assert list(out.glob("events.out.tfevents.*"))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--recipe", "best"], "unknown --recipe 'best'"),
        (["--batch_size", 12], "--batch_size 12 is no multiple of 8"),
        (["--recipe", "original", "--batch_size", 1], "--batch_size 1: the expert's batch norms need two"),
        (["--eval_clips", 0], "--eval_clips 0 is not at least 1"),
    ],
)
def test_options_out_of_range(clips, tmp_path, capsys, words, text):
    assert main.main(command(clips, tmp_path, ["train_syncnet", *words])) == 2
    assert text in capsys.readouterr().err.splitlines()[-1]
