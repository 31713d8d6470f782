"""The generator's step against the original's, its schedule, the expert as judge, what it writes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from support.devices import DEVICE
from support.networks import golden_weights
from support.trainings import GENERATOR, WITH_DISC, difference, lines, read, train, weights
from wav2lip_npu import device
from wav2lip_npu.models.inputs import face_windows, generator_input, syncnet_input
from wav2lip_npu.models.networks import QualityDiscriminator, SyncNet, Wav2Lip
from wav2lip_npu.training.generator import Lessons, SyncSchedule, _sheet
from wav2lip_npu.training.loop import _advance, trainee
from wav2lip_npu.training.options import GeneratorOptions, TrainOptions
from wav2lip_npu.training.state import TrainState

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.any_device]


class Fake:
    """Batches with what the loop asks of them."""

    def __init__(self, seed: int, size: int = 2) -> None:
        random = np.random.default_rng(seed)
        self.arrays = {
            "target": random.integers(255, size=(size, 5, 96, 96, 3), dtype=np.uint8),
            "reference": random.integers(255, size=(size, 5, 96, 96, 3), dtype=np.uint8),
            "frame_mels": random.uniform(-4, 4, (size, 5, 80, 16)).astype(np.float32),
            "mels": random.uniform(-4, 4, (size, 80, 16)).astype(np.float32),
        }
        self.first, self.after = 0, size


def lessons(asked: GeneratorOptions, options: TrainOptions = TrainOptions()) -> tuple[TrainState, Lessons]:
    """A training of width 2 with known weights."""
    betas = (0.5, 0.999) if asked.disc_wt else (0.9, 0.999)
    networks: dict[str, nn.Module] = {"generator": golden_weights(Wav2Lip(2))}
    if asked.disc_wt:
        networks["discriminator"] = golden_weights(QualityDiscriminator(2))
    trained = {kind: trainee(kind, each, options, DEVICE, betas=betas) for kind, each in networks.items()}
    state = TrainState(trained, DEVICE, device.grad_scaler(DEVICE, options.amp, options.loss_scale))
    schedule = SyncSchedule(asked.syncnet_wt, asked.sync_gate, asked.risen_weight)
    return state, Lessons(state, golden_weights(SyncNet(2)).to(DEVICE), schedule, asked, options.amp)


def advance(state: TrainState, step, batches, options: TrainOptions = TrainOptions()) -> dict[str, float]:
    import threading

    return _advance(state, iter(batches), step, options, threading.Event(), str)[0]


def the_originals(
    batches: list[Fake], *, sync: float, disc: float, expert_bn: str
) -> tuple[nn.Module, nn.Module]:
    """The hq training as reference/wav2lip.md describes it, written down plainly."""
    generator, critic = (golden_weights(each(2)).double().train() for each in (Wav2Lip, QualityDiscriminator))
    syncnet = golden_weights(SyncNet(2)).double().requires_grad_(False).train(expert_bn == "batch")
    betas = (0.5, 0.999) if disc else (0.9, 0.999)
    mine = torch.optim.Adam(generator.parameters(), 1e-4, betas)
    its = torch.optim.Adam(critic.parameters(), 1e-4, betas)
    bce = nn.BCELoss()
    for batch in batches:
        window, wrong = (
            torch.from_numpy(batch.arrays[name]).permute(0, 4, 1, 2, 3).double() / 255
            for name in ("target", "reference")
        )
        x = window.clone()
        x[:, :, :, 48:] = 0
        mine.zero_grad()
        its.zero_grad()
        g = generator(
            torch.from_numpy(batch.arrays["frame_mels"]).double()[:, :, None], torch.cat([x, wrong], dim=1)
        )
        a, v = syncnet(
            torch.from_numpy(batch.arrays["mels"]).double()[:, None],
            torch.cat([g[:, :, k, 48:] for k in range(5)], dim=1),
        )
        loss = (1 - sync - disc) * nn.L1Loss()(g, window)
        if sync:
            loss = loss + sync * bce(functional.cosine_similarity(a, v), torch.ones(len(a)).double())
        if disc:
            found = critic(g)
            loss = loss + disc * bce(found, torch.ones_like(found))
        loss.backward()
        mine.step()
        its.zero_grad()
        if disc:
            found = critic(window)
            bce(found, torch.ones_like(found)).backward()
            found = critic(g.detach())
            bce(found, torch.zeros_like(found)).backward()
            its.step()
    return generator, critic


@pytest.mark.host_only
@pytest.mark.parametrize(
    ("sync", "disc", "expert_bn"),
    [
        (0.03, 0.07, "eval"),
        pytest.param(0.4, 0.3, "batch", marks=pytest.mark.slow),
        (0.0, 0.0, "eval"),
        pytest.param(1.0, 0.0, "eval", marks=pytest.mark.slow),
    ],
)
def test_two_steps_are_the_originals(sync, disc, expert_bn, monkeypatch):
    """In double precision: norms of networks so narrow, and Adam, make whole steps of what is rounding."""
    batches = [Fake(0), Fake(1)]
    generator, critic = the_originals(batches, sync=sync, disc=disc, expert_bn=expert_bn)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    asked = GeneratorOptions(syncnet_wt=sync, disc_wt=disc, expert_bn=expert_bn, sync_weight=sync)
    state, taught = lessons(asked)
    for each in (*(each.network for each in state.trainees.values()), taught._syncnet):
        each.double()
    for batch in batches:
        for name in ("mels", "frame_mels"):
            batch.arrays[name] = batch.arrays[name].astype(np.float64)
        advance(state, taught.step, [batch])
    for kind, theirs in (("generator", generator), *([("discriminator", critic)] if disc else [])):
        start = golden_weights(type(theirs)(2)).state_dict()
        assert difference(start, theirs.state_dict()) > 1e-4
        assert difference(state.trainees[kind].network.state_dict(), theirs.state_dict()) < 1e-6, kind


def test_neither_learns_in_the_others_phase():
    state, taught = lessons(GeneratorOptions(disc_wt=0.07, syncnet_wt=0.03))
    generator, critic = (each.network for each in state.trainees.values())
    phases = taught.step(device.upload(Fake(0).arrays, DEVICE))
    first = next(phases)
    assert first.kind == "generator"
    first.total.backward()
    assert all(p.grad is None and p.requires_grad for p in critic.parameters())
    learnt = [p.grad.clone() for p in generator.parameters()]
    second = next(phases)
    assert second.kind == "discriminator"
    second.total.backward()
    assert all(torch.equal(p.grad, g) for p, g in zip(generator.parameters(), learnt, strict=True))
    assert all(p.grad.abs().sum() > 0 for p in critic.parameters())
    assert next(phases, None) is None


def test_the_total():
    _, taught = lessons(GeneratorOptions(disc_wt=0.2, syncnet_wt=0.1))
    found = next(taught.step(device.upload(Fake(0).arrays, DEVICE)))
    total, parts = found.total.item(), {name: value.item() for name, value in found.parts.items()}
    assert set(parts) == {"l1", "sync", "quality", "sync_weight"}
    assert parts["sync_weight"] == pytest.approx(0.1)
    wanted = 0.1 * parts["sync"] + 0.2 * parts["quality"] + 0.7 * parts["l1"]
    assert total == pytest.approx(wanted, rel=1e-5)
    assert found.total.dtype == torch.float32
    _, plain = lessons(GeneratorOptions())
    assert set(next(plain.step(device.upload(Fake(0).arrays, DEVICE))).parts) == {"l1", "sync_weight"}


def test_the_expert_judges_what_it_is_to_judge():
    _, taught = lessons(GeneratorOptions(syncnet_wt=0.1))
    batch = device.upload(Fake(0).arrays, DEVICE)
    sync = [
        float(
            next(taught.step({**batch, "judged": torch.tensor(rows, device=DEVICE)})).parts["sync"].detach()
        )
        for rows in ([1.0, 1], [1.0, 0], [0.0, 1], [0.0, 0])
    ]
    assert sync[0] == pytest.approx((sync[1] + sync[2]) / 2, rel=1e-5)
    assert sync[1] != sync[2] and sync[3] == 0
    assert float(next(taught.step(batch)).parts["sync"].detach()) == pytest.approx(sync[0], rel=1e-6)


def test_two_batches_accumulate_to_one_of_both():
    """With batch norms that do not look at the batch."""
    both = Fake(0, 4)
    halves = [Fake(0), Fake(0)]
    for number, half in enumerate(halves):
        half.arrays = {k: v[2 * number : 2 * number + 2] for k, v in both.arrays.items()}
    found = []
    for batches, options in (([both], TrainOptions()), (halves, TrainOptions(accumulate=2))):
        state, taught = lessons(GeneratorOptions(syncnet_wt=0.1))
        for module in state.main.network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        state.main.optimizer.step = lambda: None
        values = advance(state, taught.step, batches, options)
        found.append((values, [p.grad.clone() for p in state.main.network.parameters()]))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-7)


def test_the_schedule():
    schedule = SyncSchedule(0.0, 0.75, 0.03)
    for held_out, weight in ((0.9, 0), (0.75, 0), (float("nan"), 0), (0.74, 0.03), (0.9, 0.03)):
        schedule.update(held_out)
        assert schedule.weight == weight
    again = SyncSchedule(0.0, 0.75, 0.05)  # what is asked for now wins
    again.load_state_dict(schedule.state_dict())
    assert again.weight == 0.05
    high = SyncSchedule(0.2, 0.75, 0.01)
    high.update(0.1)
    assert high.weight == 0.2  # it never falls
    assert GeneratorOptions().risen_weight == 0.01
    assert GeneratorOptions(disc_wt=0.07).risen_weight == 0.03
    assert GeneratorOptions(disc_wt=0.07, sync_weight=0.2).risen_weight == 0.2


def test_the_schedule_in_a_training(clips, tmp_path, caplog):
    out = train(clips, tmp_path, WITH_DISC, steps=2, eval_interval=1, log_interval=1, sync_gate=100)
    assert "is below 100: its weight is now 0.03" in caplog.text
    assert [row["sync_weight"] for row in lines(out, "train")] == pytest.approx([0, 0.03])
    assert ["sync" in row for row in lines(out, "train")] == [False, True]
    assert [row["sync_weight"] for row in lines(out, "held_out")] == [0.03, 0.03]
    more = read(out / "disc_checkpoint_step000000002.pth")["wav2lip_npu"]
    assert more["extras"]["schedule"] == {"passed": True, "weight": 0.03}
    train(clips, out, WITH_DISC, steps=3, log_interval=1, eval_interval=100, sync_gate=0)
    assert lines(out, "train")[-1]["sync_weight"] == pytest.approx(0.03)
    before = weights(out / "checkpoint_step000000003.pth")
    (out / "disc_checkpoint_step000000003.pth").unlink()
    train(clips, out, WITH_DISC, steps=3)
    assert "no checkpoint of a discriminator beside it" in caplog.text
    train(
        clips, out, GENERATOR, steps=4, checkpoint_path=out / "checkpoint_step000000003.pth", syncnet_wt=0.5
    )
    assert difference(before, weights(out / "checkpoint_step000000004.pth")) > 0


def test_samples_and_curves(clips, tmp_path):
    out = train(clips, tmp_path, GENERATOR, steps=4, eval_interval=2, log_interval=1)
    for step in (2, 4):
        sheet = cv2.imread(str(out / f"samples_step{step:09d}.jpg"))
        assert sheet.shape == (2 * 96, 4 * 96, 3)
        assert sheet[50:94, 98:190].max() < 12  # the lower half of the second column is black
        assert sheet[50:94, 290:380].mean() > 12
    assert [row["step"] for row in lines(out, "train")] == [1, 2, 3, 4]
    assert set(lines(out, "held_out")[0]) == {"part", "step", "l1", "sync", "sync_weight"}
    assert list(out.glob("events.out.tfevents.*"))
    (out / "checkpoint_step000000004.pth").unlink()
    with (out / "curves.jsonl").open("a") as file:
        file.write('{"part": "train", "st')
    train(clips, out, GENERATOR, steps=1, checkpoint_interval=1)  # from scratch: all lines are of another run
    assert lines(out, "train") == []


def test_the_sheet_shows_reference_masked_made_true():
    batch = device.upload(Fake(0).arrays, DEVICE)
    target = batch["target"].permute(0, 4, 1, 2, 3).float() / 255
    pairs = generator_input(target, face_windows(batch["reference"]))
    sheet = _sheet(pairs, 1 - target, target)
    assert sheet.shape == (192, 384, 3)
    middle = batch["target"][0, 2].cpu().numpy()
    np.testing.assert_array_equal(sheet[:96, 288:], middle)
    np.testing.assert_array_equal(sheet[:96, 192:288], 255 - middle)
    np.testing.assert_array_equal(sheet[:96, :96], batch["reference"][0, 2].cpu().numpy())
    np.testing.assert_array_equal(sheet[:48, 96:192], middle[:48])
    assert not sheet[48:96, 96:192].any()


def test_lower_halves_are_frame_by_frame():
    faces = torch.rand(2, 3, 5, 96, 96)
    wanted = torch.cat([faces[:, :, k, 48:] for k in range(5)], dim=1)
    assert torch.equal(syncnet_input(faces), wanted)


@pytest.mark.parametrize("mode", ["eval", "batch"])
def test_the_norms_of_the_expert(mode):
    """Eval mode judges a window alike whatever is beside it; batch statistics do not."""
    _, taught = lessons(GeneratorOptions(expert_bn=mode))
    syncnet = taught._syncnet
    weight = syncnet.face_encoder[0].conv_block[0].weight.clone()
    sounds, windows = (torch.rand(shape).to(DEVICE) for shape in ((3, 1, 80, 16), (3, 15, 48, 96)))
    alone, beside = syncnet(sounds[:2], windows[:2])[1][0], syncnet(sounds[[0, 2]], windows[[0, 2]])[1][0]
    assert torch.allclose(alone, beside, atol=1e-6) == (mode == "eval")
    assert not any(p.requires_grad for p in syncnet.parameters())
    assert torch.equal(syncnet.face_encoder[0].conv_block[0].weight, weight)


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ({"expert_bn": "both"}, "unknown --expert_bn 'both'"),
        ({"disc_wt": 1.5}, "--disc_wt 1.5 is out of range"),
        ({"syncnet_wt": -0.1}, "--syncnet_wt -0.1 is out of range"),
        ({"disc_wt": 0.6, "sync_weight": 0.6}, "above 1 together"),
        ({"eval_batches": 0}, "--eval_batches 0 is not at least 1"),
    ],
)
def test_options_out_of_range(flags, text):
    with pytest.raises(ValueError, match=text):
        GeneratorOptions(**flags).check()


def test_evaluation_is_the_same_each_time(clips, tmp_path):
    """Held-out windows are fixed: with weights that do not move the figures do not either."""
    out = train(clips, Path(tmp_path), GENERATOR, steps=2, eval_interval=1, initial_learning_rate=1e-30)
    one, other = lines(out, "held_out")
    assert one["sync"] == pytest.approx(other["sync"], abs=0.02)  # the running statistics do move
