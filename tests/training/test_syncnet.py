"""SyncNet training: step, held-out figures, and the warning when it does not learn."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
from torch import nn

from support.clip_folders import CodeReader, write_clip
from support.devices import DEVICE
from support.networks import golden_weights
from support.trainings import SYNCNET, lines, readback_of, task_of, train
from wav2lip_npu.data.clip import read_clip
from wav2lip_npu.data.face_reader import FaceReader
from wav2lip_npu.data.samples import Batch, PairSample
from wav2lip_npu.devices import mixed_precision
from wav2lip_npu.errors import DataError, UsageError
from wav2lip_npu.models.networks import SyncNet
from wav2lip_npu.training import syncnet_figures
from wav2lip_npu.training.loop import TrainResult, _advance
from wav2lip_npu.training.options import SyncNetTrainOptions, TrainOptions
from wav2lip_npu.training.state import TrainState
from wav2lip_npu.training.sync_offset import Similarities
from wav2lip_npu.training.syncnet import pair_step, train_syncnet
from wav2lip_npu.training.syncnet_figures import PlateauMonitor, evaluate_syncnet, held_out_figures
from wav2lip_npu.training.trained_network import trained_network

pytestmark = pytest.mark.usefixtures("one_thread")


def state_of(network: nn.Module | None = None) -> TrainState:
    options = TrainOptions()
    trained = trained_network("syncnet", network or golden_weights(SyncNet(2)), options, DEVICE)
    return TrainState({"syncnet": trained}, DEVICE, mixed_precision.grad_scaler(DEVICE, "off", "dynamic"))


def test_step_of_the_original_recipe_matches_the_original(monkeypatch):
    random = np.random.default_rng(0)
    mels = random.uniform(-4, 4, (4, 80, 16))
    faces = random.integers(255, size=(4, 5, 48, 96, 3), dtype=np.uint8)
    in_sync = np.array([1, 0, 0, 1.0])
    original = golden_weights(SyncNet(2)).double().train()
    adam = torch.optim.Adam(original.parameters(), 1e-4)
    stacked = torch.from_numpy(np.concatenate([faces[:, k] for k in range(5)], axis=3)) / 255.0
    a, v = original(torch.from_numpy(mels)[:, None], stacked.permute(0, 3, 1, 2).double())
    loss = nn.BCELoss()(nn.functional.cosine_similarity(a, v), torch.from_numpy(in_sync))
    loss.backward()
    adam.step()
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    state = state_of()
    state.main.network.double()
    batch = Batch(0, 4, np.arange(4), PairSample(mels, faces, in_sync))
    task = task_of(functools.partial(pair_step, state, "off"))
    (result,) = _advance(state, iter([batch]), task, TrainOptions(), readback_of(state))
    values = result.losses
    assert values["bce"] == pytest.approx(loss.item(), abs=1e-5)
    for (name, ours), value in zip(state.main.network.named_parameters(), original.parameters(), strict=True):
        torch.testing.assert_close(ours, value, rtol=0, atol=2e-6, msg=name)


def table(cosines: torch.Tensor, first: int = 0) -> Similarities:
    return Similarities(np.arange(first, first + len(cosines)), cosines)


@pytest.mark.any_device
def test_figures_of_a_known_table():
    """Half of the original's pairs are in sync, half are any other window of the clip."""
    cosines = torch.full((40, 40), 0.25) + torch.eye(40) * 0.5
    figures = held_out_figures([table(cosines), table(cosines[:10, :10])], DEVICE)
    assert figures["bce"] == pytest.approx(-math.log(0.75), abs=1e-5)
    assert (figures["auc"], figures["accuracy"], figures["retrieval"], figures["clip_retrieval"]) == (
        1,
        1,
        1,
        1,
    )
    assert (figures["in_sync"], figures["out_of_sync"]) == pytest.approx((0.75, 0.25))
    half = torch.full((10, 10), 0.5)
    assert held_out_figures([table(half)], DEVICE) == pytest.approx(
        {"bce": math.log(2), "auc": 0.5, "accuracy": 0.5, "in_sync": 0.5, "out_of_sync": 0.5}
    )
    late = torch.roll(cosines, 5, dims=0)  # the best audio is five windows away
    assert held_out_figures([table(late)], DEVICE)["retrieval"] == 0
    near = torch.roll(cosines, 1, dims=0)
    assert held_out_figures([table(near)], DEVICE)["retrieval"] == 1
    with pytest.raises(DataError, match="no held-out clip can be read"):
        held_out_figures([], DEVICE)


def test_good_syncnet_gets_good_figures_and_damaged_clips_are_skipped(tmp_path, caplog):
    clips = [read_clip(name, write_clip(tmp_path / name, 60)) for name in "ab"]
    state = state_of()
    state.main.network = CodeReader()
    figures = evaluate_syncnet(state, clips, FaceReader(cache=False)).figures
    assert figures["accuracy"] > 0.85
    assert figures["clip_retrieval"] == 1
    (tmp_path / "b" / "20.jpg").write_bytes(b"")
    fewer = evaluate_syncnet(state, clips, FaceReader(cache=False)).figures
    assert "b is skipped: cannot read" in caplog.text
    assert fewer != figures


def test_plateau_is_reported_once_when_it_lasts(caplog):
    """F8: the warning and the findings are logged only once."""
    calls = []

    def diagnose():
        calls.append(1)
        return ["3 of 4 clips have no speech. Drop them."]

    monitor = PlateauMonitor(diagnose)
    warned = []
    for bce, accuracy in (
        (0.69, 0.5),
        (0.69, 0.5),
        (0.69, 0.5),
        (0.5, 0.8),
        (0.69, 0.5),
        (0.69, 0.5),
        (0.69, 0.9),
    ):
        caplog.clear()
        assert monitor.update({"bce": bce, "accuracy": accuracy}) == {}
        warned.append("ln 2 = 0.69" in caplog.text and "no speech" in caplog.text)
    assert warned == [False, True, False, False, False, False, False]
    assert len(calls) == 1


def test_clips_are_diagnosed_once(clips, tmp_path, caplog, monkeypatch):
    from wav2lip_npu.doctor import dataset

    calls = []
    check_clips = dataset.check_clips

    def counting(*arguments, **options):
        calls.append(1)
        return check_clips(*arguments, **options)

    monkeypatch.setattr(dataset, "check_clips", counting)
    monkeypatch.setattr(syncnet_figures, "_PLATEAU_LOSS", 0.0)
    monkeypatch.setattr(syncnet_figures, "_PLATEAU_ACCURACY", 1.1)
    train(clips, tmp_path, SYNCNET, steps=3, eval_interval=1)
    assert len(calls) == 1
    assert caplog.text.count("SyncNet is still guessing") == 1


def test_curves_hold_the_figures(clips, tmp_path):
    out = train(clips, tmp_path, SYNCNET, steps=2, eval_interval=1, log_interval=1)
    (row, _) = lines(out, "held_out")
    assert set(row) == {"part", "step", "bce", "auc", "accuracy", "in_sync", "out_of_sync"}
    assert set(lines(out, "train")[0]) == {"part", "step", "bce", "in_sync", "out_of_sync", "skipped"}
    assert list(out.glob("events.out.tfevents.*"))


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"recipe": "best"}, "--recipe 'best'"),
        ({"batch_size": 12}, "--batch_size 12 is not a multiple of 8"),
        ({"recipe": "original", "batch_size": 1}, "--batch_size 1:"),
        ({"eval_clips": 0}, "--eval_clips 0"),
        ({"same_clip": 1.5}, "--same_clip 1.5"),
        ({"recipe": "original", "same_clip": 0.5}, "--same_clip has no effect with --recipe original"),
    ],
)
def test_options_out_of_range(values, text):
    with pytest.raises(UsageError, match=text):
        SyncNetTrainOptions(**values)


@pytest.mark.any_device
def test_train_syncnet_takes_options_by_name(clips, tmp_path):
    shown = {}
    result = train_syncnet(
        clips / "data", tmp_path / "out", filelists=str(clips / "lists"), device=str(DEVICE.type), width=2,
        batch_size=16, steps=2, eval_interval=1, checkpoint_interval=1, num_workers=1, flip=0.5,
        progress=shown.__setitem__,
    )  # fmt: skip
    assert isinstance(result, TrainResult)
    assert (result.step, result.checkpoint.name) == (2, "checkpoint_step000000002.pth")
    assert result.checkpoint.exists()
    assert result.best_checkpoint in list((tmp_path / "out").glob("*.pth"))
    held_out = lines(tmp_path / "out", "held_out")[-1]
    assert result.held_out == {name: held_out[name] for name in result.held_out}
    assert list(shown) == [1, 2]
    again = train_syncnet(clips / "data", tmp_path / "out", filelists=str(clips / "lists"), steps=2)
    assert (again.step, again.held_out, again.best_checkpoint) == (2, {}, result.best_checkpoint)


def test_train_syncnet_names_the_nearest_option(tmp_path):
    with pytest.raises(UsageError, match="Did you mean steps"):
        train_syncnet(tmp_path, tmp_path, step=3)
