"""Training loop: accumulation, warm-up, non-finite losses, mixed precision; and the losses themselves."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from support.devices import DEVICE
from support.networks import golden_weights
from support.trainings import (
    ORIGINAL,
    SYNCNET,
    WITH_DISC,
    assert_same,
    command,
    difference,
    lines,
    read,
    readback_of,
    task_of,
    train,
    weights,
)
from wav2lip_npu.cli import main
from wav2lip_npu.data.samples import Batch
from wav2lip_npu.devices import mixed_precision
from wav2lip_npu.models.networks import SyncNet
from wav2lip_npu.training import losses
from wav2lip_npu.training.ema import Average
from wav2lip_npu.training.loop import _advance
from wav2lip_npu.training.options import TrainOptions
from wav2lip_npu.training.state import TrainState
from wav2lip_npu.training.task import Losses
from wav2lip_npu.training.trained_network import trained_network


def toy(options: TrainOptions) -> TrainState:
    """Return a training of one weight, 2."""
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, 2.0)
    scaler = mixed_precision.grad_scaler(DEVICE, options.amp, options.loss_scale)
    return TrainState({"syncnet": trained_network("syncnet", network, options, DEVICE)}, DEVICE, scaler)


def advance(state: TrainState, step, options: TrainOptions) -> dict[str, float]:
    stream = (Batch(n, n + 1, np.empty(0, np.int64), ()) for n in itertools.count())
    return _advance(state, stream, task_of(step), options, readback_of(state))[0].losses


def weight(state: TrainState) -> float:
    return float(next(state.main.network.parameters()).detach())


def squared_weight(state: TrainState, factor: float = 1.0):
    def step(batch):
        loss = factor * next(state.main.network.parameters()).sum() ** 2
        yield Losses("syncnet", loss, {"loss": loss})

    return step


@pytest.mark.any_device
def test_clip_grad_norm():
    options = TrainOptions(clip_grad_norm=0.5)
    state = toy(options)
    assert advance(state, squared_weight(state), options) == {"loss": 4.0}
    assert next(state.main.network.parameters()).grad.item() == pytest.approx(0.5)


@pytest.mark.any_device
def test_accumulated_gradients_are_averaged():
    options = TrainOptions(accumulate=4)
    state = toy(options)
    assert advance(state, squared_weight(state), options) == {"loss": 4.0}
    assert next(state.main.network.parameters()).grad.item() == pytest.approx(4.0)
    assert state.position == 4


def test_warm_up():
    options = TrainOptions(warmup_steps=4, learning_rate=1.0)
    state = toy(options)
    rates = []
    for _ in range(6):
        advance(state, squared_weight(state), options)
        rates.append(state.main.optimizer.param_groups[0]["lr"])
    assert rates == [0.25, 0.5, 0.75, 1, 1, 1]


@pytest.mark.any_device
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_non_finite_loss_changes_no_weight(value):
    options = TrainOptions(accumulate=2)
    state = toy(options)
    with pytest.raises(ValueError, match=rf"step 1 \(loss {value}; samples 0 \(c\); 1 \(c\)\)"):
        advance(state, squared_weight(state, value), options)
    assert weight(state) == 2
    assert state.step == 0


def test_losses_are_read_while_the_next_step_is_queued(monkeypatch):
    """With a lag, a step returns the losses of the one before."""
    monkeypatch.setattr(mixed_precision, "adam_options", lambda device: {"fused": True})
    state, options = toy(TrainOptions()), TrainOptions()
    readback = readback_of(state, lag=1)
    batches = (Batch(n, n + 1, np.empty(0, np.int64), ()) for n in itertools.count())
    results = [_advance(state, batches, task_of(squared_weight(state)), options, readback) for _ in range(3)]
    assert [[result.step for result in some] for some in results] == [[], [1], [2]]
    assert results[1][0].losses == {"loss": 4.0}
    assert [result.step for result in readback.read_all()] == [3]


def test_late_losses_that_are_not_finite_change_no_weight(monkeypatch):
    """The steps that are queued before the loss is read leave the weights unchanged."""
    monkeypatch.setattr(mixed_precision, "adam_options", lambda device: {"fused": True})
    options = TrainOptions()
    state = toy(options)
    readback = readback_of(state, lag=1)
    batches = (Batch(n, n + 1, np.empty(0, np.int64), ()) for n in itertools.count())
    _advance(state, batches, task_of(squared_weight(state)), options, readback)
    before = weight(state)
    _advance(state, batches, task_of(squared_weight(state, math.nan)), options, readback)
    assert weight(state) == before != 2
    with pytest.raises(ValueError, match=r"step 2 \(loss nan; samples 1 \(c\)\)"):
        readback.read_all()


@pytest.mark.any_device
def test_overflowing_steps_are_skipped_and_counted():
    """A dynamic scale is halved, a constant one stays."""
    for scale, after in (("dynamic", 2.0**15), ("1024", 1024.0)):
        options = TrainOptions(amp="fp16", loss_scale=scale)
        state = toy(options)
        advance(state, squared_weight(state, 1e38 / 4), options)  # times the scale it is infinite
        assert (weight(state), state.skipped, state.step) == (2, 1, 1)
        assert state.scaler.get_scale() == after
        advance(state, squared_weight(state), options)
        assert weight(state) != 2
        assert state.skipped == 1
        assert state.scaler.get_scale() == after


@pytest.mark.any_device
def test_gradients_that_overflow_at_any_scale_raise():
    options = TrainOptions(amp="fp16")
    state = toy(options)

    def step(batch):
        loss = (next(state.main.network.parameters()).sum() - 2).abs().sqrt() + 1  # its gradient is infinite
        yield Losses("syncnet", loss, {"loss": loss})

    with pytest.raises(ValueError, match="overflow fp16 at any loss scale"):
        for _ in range(100):
            advance(state, step, options)
    assert weight(state) == 2


@pytest.mark.any_device
@pytest.mark.parametrize(
    ("words", "flags"), [(SYNCNET, {}), pytest.param(WITH_DISC, {"syncnet_wt": 0.1}, marks=pytest.mark.slow)]
)
def test_mixed_precision_is_close_to_float32(clips, tmp_path, words, flags):
    found = {}
    for amp in ("off", "bf16", "fp16"):
        out = train(clips, tmp_path / amp, words, steps=2, log_interval=1, amp=amp, eval_interval=2, **flags)
        found[amp] = lines(out, "train"), weights(out / "checkpoint_step000000002.pth")
        assert all(value.dtype in (torch.float32, torch.int64) for value in found[amp][1].values())
    for amp in ("bf16", "fp16"):
        assert found[amp][0] != found["off"][0]
        for row, exact in zip(found[amp][0], found["off"][0], strict=True):
            assert row.pop("skipped") <= 2  # the scale may have to be halved first
            assert row == pytest.approx({name: exact[name] for name in row}, abs=0.08)


@pytest.mark.slow
@pytest.mark.any_device
def test_loss_scale_is_saved(clips, tmp_path):
    flags = {"amp": "fp16", "log_interval": 1}
    out = train(clips, tmp_path / "huge", ORIGINAL, steps=2, loss_scale="1e30", **flags)
    assert [row["skipped"] for row in lines(out, "train")] == [1, 2]
    more = read(out / "checkpoint_step000000002.pth")["wav2lip_npu"]
    assert more["skipped"] == 2
    assert more["scaler"]["scale"] == pytest.approx(1e30)
    train(clips, out, ORIGINAL, steps=3, loss_scale="64", **flags)  # the current option wins
    more = read(out / "checkpoint_step000000003.pth")["wav2lip_npu"]
    assert (more["skipped"], more["scaler"]["scale"]) == (2, 64)
    train(clips, out, ORIGINAL, steps=4, **flags)
    assert read(out / "checkpoint_step000000004.pth")["wav2lip_npu"]["scaler"]["scale"] >= 2**15


@pytest.mark.slow
@pytest.mark.any_device
def test_fp16_resumes_bit_for_bit(clips, tmp_path):
    flags = {"amp": "fp16"}
    once = train(clips, tmp_path / "once", ORIGINAL, steps=4, **flags)
    twice = train(clips, tmp_path / "twice", ORIGINAL, steps=2, **flags)
    train(clips, twice, ORIGINAL, steps=4, **flags)
    name = "checkpoint_step000000004.pth"
    assert_same(read(once / name), read(twice / name))


def test_diverged_training_ends_with_one_line(clips, tmp_path, capsys, monkeypatch):
    from wav2lip_npu.training import syncnet

    out = train(clips, tmp_path / "out", ORIGINAL, steps=1)
    monkeypatch.setattr(syncnet, "pair_loss", lambda *arguments: losses.pair_loss(*arguments) * math.nan)
    capsys.readouterr()
    assert main.main(command(clips, out, ORIGINAL, steps=3)) == 2
    (message,) = (row for row in capsys.readouterr().err.splitlines() if row.startswith("wav2lip-npu: "))
    assert "step 2 (bce nan, accuracy" in message
    assert "samples 4 to 7 (c" in message
    assert [path.name for path in out.glob("*.pth")] == ["checkpoint_step000000001.pth"]


def test_losses_of_zero_embeddings_are_finite():
    nothing = nn.functional.normalize(torch.zeros(6, 4, requires_grad=True))
    unit = nn.functional.normalize(torch.rand(6, 4))
    clip, frame = torch.zeros(6), torch.arange(6)
    for audio, faces in ((nothing, nothing), (nothing, unit), (unit, nothing)):
        found = [
            losses.pair_loss(audio, faces, torch.tensor([0.0, 1, 0, 1, 0, 1])),
            losses.sync_loss(audio, faces),
            losses.all_pairs_loss(audio, faces, clip, frame)[0],
        ]
        for loss in found:
            assert loss.isfinite()
            (slope,) = torch.autograd.grad(loss, nothing, retain_graph=True)
            assert slope.isfinite().all()


def test_cosines_above_one_are_clamped():
    same = torch.full((3, 4), 0.5 + 1e-6)
    for loss in (losses.pair_loss(same, same, torch.zeros(3)), losses.sync_loss(same, same)):
        assert loss.isfinite()
    assert float(losses.cosines(same, same).max()) < 1


def test_sync_loss_is_linear_below_its_floor():
    audio = torch.tensor([[1.0, 0.0]])
    for floor in (0.3, 0.5, 1.0):
        angles = [torch.tensor([c, (1 - c * c) ** 0.5]) for c in (0.01, 0.1, 0.29, 0.6, 0.9)]
        for angle in angles:
            faces = angle[None].requires_grad_()
            loss = losses.sync_loss(audio, faces, floor)
            cosine = float(angle[0])
            (slope,) = torch.autograd.grad(loss, faces)
            assert float(slope[0, 0]) == pytest.approx(-1 / max(cosine, floor), rel=1e-4)
            if cosine >= floor:
                assert float(loss) == pytest.approx(-math.log(cosine), rel=1e-4)


def test_losses_match_bce():
    audio, faces = (nn.functional.normalize(torch.rand(6, 8)) for _ in range(2))
    in_sync = torch.tensor([1.0, 0, 1, 0, 0, 1])
    bce = nn.BCELoss()
    one = nn.functional.cosine_similarity(audio, faces)
    torch.testing.assert_close(losses.pair_loss(audio, faces, in_sync), bce(one, in_sync))
    torch.testing.assert_close(losses.sync_loss(audio, faces), bce(one, torch.ones(6)))
    clip, frame = (
        torch.tensor([0, 0, 1, 1, 2, 2]),
        torch.tensor([3, 3, 4, 5, 3, 4]),
    )  # the first two are equal
    loss, table = losses.all_pairs_loss(audio, faces, clip, frame)
    wrong = ~torch.eye(6, dtype=torch.bool)
    wrong[0, 1] = wrong[1, 0] = False
    cosine = audio @ faces.T
    expected = (bce(cosine.diagonal(), torch.ones(6)) + bce(cosine[wrong], torch.zeros(28))) / 2
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(table, cosine)
    loss, _ = losses.all_pairs_loss(audio, faces, clip, frame, 0.7)
    inside = clip[:, None] == clip
    parts = [bce(cosine[where], torch.zeros(int(where.sum()))) for where in (wrong & inside, wrong & ~inside)]
    expected = (bce(cosine.diagonal(), torch.ones(6)) + 0.7 * parts[0] + 0.3 * parts[1]) / 2
    torch.testing.assert_close(loss, expected)
    alone, _ = losses.all_pairs_loss(audio, faces, torch.arange(6), frame, 1.0)
    torch.testing.assert_close(alone, bce(cosine.diagonal(), torch.ones(6)) / 2)


def test_mouth_weight():
    target, weights = torch.rand(2, 3, 5, 96, 96), losses.mouth_weights(96, 4, torch.device("cpu"))
    torch.testing.assert_close(losses.mouth_loss(target + 0.1, target, weights), torch.tensor(0.1))
    in_mouth, in_hair = target.clone(), target.clone()
    in_mouth[..., 70:78, 44:52] += 0.5
    in_hair[..., 4:12, 44:52] += 0.5
    mouth, hair = (float(losses.mouth_loss(arguments, target, weights)) for arguments in (in_mouth, in_hair))
    assert mouth / hair == pytest.approx(4, rel=0.05)
    plain = nn.functional.l1_loss(in_mouth, target)
    torch.testing.assert_close(losses.mouth_loss(in_mouth, target, torch.ones(96, 96)), plain)


def test_losses_of_edges_and_motion_ignore_constant_errors():
    target, weights = torch.rand(2, 3, 5, 96, 96), torch.ones(96, 96)
    for loss in (losses.gradient_loss, losses.motion_loss):
        torch.testing.assert_close(loss(target + 0.1, target, weights), torch.tensor(0.0), atol=1e-6, rtol=0)
    stripe, flash = target.clone(), target.clone()
    stripe[..., 60:, 48] += 0.5
    flash[:, :, 2, 60:] += 0.5
    edges = float(losses.gradient_loss(stripe, target, weights))
    across, down = 36 * 2 * 0.5 / (56 * 95), 0.5 / (55 * 96)
    assert edges == pytest.approx(across + down, rel=1e-4)
    assert float(losses.motion_loss(stripe, target, weights)) < 1e-7
    assert float(losses.motion_loss(flash, target, weights)) == pytest.approx(0.5 * 2 / 4 * 36 / 48, rel=1e-4)
    heavy = losses.mouth_weights(96, 4, torch.device("cpu"))
    assert float(losses.gradient_loss(stripe, target, heavy)) > 1.5 * edges


@pytest.mark.any_device
def test_average_of_weights():
    network = nn.BatchNorm1d(2)
    average = Average(network, 0.5)
    sums = network.weight.detach().double().clone()
    for number in range(1, 30):
        with torch.no_grad():
            network.weight.fill_(number)
            network.running_mean.fill_(-number)
            network.num_batches_tracked.fill_(number)
        average.update()
        decay = min(0.5, number / (number + 10))
        sums = sums * decay + number * (1 - decay)
    with average.in_place():
        torch.testing.assert_close(network.weight.double(), sums, rtol=1e-5, atol=1e-5)
        assert network.running_mean[0] < -27
        assert network.num_batches_tracked == 29
    assert network.weight[0] == 29
    network.weight.data.fill_(7)
    with pytest.raises(ZeroDivisionError), average.in_place():
        1 / 0  # noqa: B018
    assert network.weight[0] == 7


def test_seed_sets_initial_weights_and_samples(clips, tmp_path):
    one, again, other = (
        weights(train(clips, tmp_path / name, ORIGINAL, steps=1, seed=seed) / "checkpoint_step000000001.pth")
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert difference(one, again) == 0
    assert difference(one, other) > 0.01


def test_sync_batchnorm_needs_several_ranks():
    from wav2lip_npu.training.distributed import SINGLE, Ranks, sync_batchnorm

    network = golden_weights(SyncNet(2))
    assert sync_batchnorm(network, SINGLE) is network
    keys = list(network.state_dict())
    converted = sync_batchnorm(network, Ranks(0, 2))
    assert any(isinstance(module, nn.SyncBatchNorm) for module in converted.modules())
    assert list(converted.state_dict()) == keys


def test_cosine_ends_at_its_step():
    options = TrainOptions(learning_rate=1e-3, cosine_steps=100, warmup_steps=10, weight_decay=0.1)
    trained = trained_network("syncnet", golden_weights(SyncNet(2)), options, DEVICE)
    rates = [trained.rate(step) for step in (0, 4, 9, 50, 100, 1000)]
    assert rates[:2] == pytest.approx([1e-4, 5e-4], rel=0.01)
    assert rates[3:] == pytest.approx([0.51e-3, 2e-5, 2e-5], rel=0.01)
    assert trained.optimizer.param_groups[0]["weight_decay"] == 0.1
    disc = trained_network("discriminator", golden_weights(SyncNet(2)), options, DEVICE, learning_rate=1e-4)
    assert disc.rate(50) == disc.rate(100) == 1e-4
    assert disc.optimizer.param_groups[0]["weight_decay"] == 0
