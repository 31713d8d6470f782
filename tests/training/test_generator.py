"""Generator training: its step against the original's, the schedule, SyncNet as judge, the output."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from support.devices import DEVICE
from support.marks import slow
from support.networks import golden_weights, write_lpips
from support.trainings import (
    GENERATOR,
    WITH_DISC,
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
from wav2lip_npu.data.samples import Batch, TargetSample
from wav2lip_npu.devices import mixed_precision
from wav2lip_npu.errors import UsageError
from wav2lip_npu.models.inputs import face_windows, generator_input, syncnet_input
from wav2lip_npu.models.lpips import Lpips
from wav2lip_npu.models.networks import QualityDiscriminator, SyncNet, Wav2Lip
from wav2lip_npu.models.patch_discriminator import PatchDiscriminator
from wav2lip_npu.training.generator import train_generator
from wav2lip_npu.training.generator_objective import GeneratorObjective, _sheet
from wav2lip_npu.training.loop import _advance
from wav2lip_npu.training.loss_options import GeneratorOptions
from wav2lip_npu.training.loss_schedule import LossSchedule
from wav2lip_npu.training.options import TrainOptions
from wav2lip_npu.training.state import TrainState
from wav2lip_npu.training.trained_network import trained_network

pytestmark = pytest.mark.usefixtures("one_thread")


def batch_of(seed: int, size: int = 2) -> Batch[TargetSample]:
    """Return a batch of random windows."""
    random = np.random.default_rng(seed)
    sample = TargetSample(
        targets=random.integers(255, size=(size, 5, 96, 96, 3), dtype=np.uint8),
        references=random.integers(255, size=(size, 5, 96, 96, 3), dtype=np.uint8),
        frame_mels=random.uniform(-4, 4, (size, 5, 80, 16)).astype(np.float32),
        mels=random.uniform(-4, 4, (size, 80, 16)).astype(np.float32),
        judged=np.ones(size, np.float32),
    )
    return Batch(0, size, np.arange(size), sample)


def with_arrays(batch: Batch[TargetSample], **arrays: np.ndarray) -> Batch[TargetSample]:
    return replace(batch, samples=batch.samples._replace(**arrays))


def training_of(
    losses: GeneratorOptions, options: TrainOptions = TrainOptions()
) -> tuple[TrainState, GeneratorObjective]:
    """Return a training of width 2 with known weights."""
    betas = (0.5, 0.999) if losses.disc_wt else (0.9, 0.999)
    networks: dict[str, nn.Module] = {"generator": golden_weights(Wav2Lip(2))}
    if losses.disc_wt:
        networks["discriminator"] = golden_weights(QualityDiscriminator(2))
    if losses.patch_disc_wt:
        networks["patch_discriminator"] = PatchDiscriminator(2)
    trained = {
        kind: trained_network(kind, network, options, DEVICE, betas=betas)
        for kind, network in networks.items()
    }
    state = TrainState(trained, DEVICE, mixed_precision.grad_scaler(DEVICE, options.amp, options.loss_scale))
    schedule = LossSchedule(losses)
    syncnet = golden_weights(SyncNet(2)).to(DEVICE)
    return state, GeneratorObjective(state, syncnet, schedule, losses, options.amp)


def advance(
    state: TrainState, objective: GeneratorObjective, batches, options: TrainOptions = TrainOptions()
) -> dict[str, float]:
    task = task_of(objective.step)
    task.begin = objective.begin
    return _advance(state, iter(batches), task, options, readback_of(state))[0].losses


def original_training(
    batches: list[Batch[TargetSample]], *, sync: float, disc: float, expert_bn: str
) -> tuple[nn.Module, nn.Module]:
    """Run the original's hq training, as reference/wav2lip.md describes it."""
    generator, critic = (
        golden_weights(network_type(2)).double().train() for network_type in (Wav2Lip, QualityDiscriminator)
    )
    syncnet = golden_weights(SyncNet(2)).double().requires_grad_(False).train(expert_bn == "batch")
    betas = (0.5, 0.999) if disc else (0.9, 0.999)
    generator_optimizer = torch.optim.Adam(generator.parameters(), 1e-4, betas)
    its = torch.optim.Adam(critic.parameters(), 1e-4, betas)
    bce = nn.BCELoss()
    for batch in batches:
        window, wrong = (
            torch.from_numpy(images).permute(0, 4, 1, 2, 3).double() / 255
            for images in (batch.samples.targets, batch.samples.references)
        )
        x = window.clone()
        x[:, :, :, 48:] = 0
        generator_optimizer.zero_grad()
        its.zero_grad()
        g = generator(
            torch.from_numpy(batch.samples.frame_mels).double()[:, :, None], torch.cat([x, wrong], dim=1)
        )
        a, v = syncnet(
            torch.from_numpy(batch.samples.mels).double()[:, None],
            torch.cat([g[:, :, k, 48:] for k in range(5)], dim=1),
        )
        loss = (1 - sync - disc) * nn.L1Loss()(g, window)
        if sync:
            loss = loss + sync * bce(functional.cosine_similarity(a, v), torch.ones(len(a)).double())
        if disc:
            found = critic(g)
            loss = loss + disc * bce(found, torch.ones_like(found))
        loss.backward()
        generator_optimizer.step()
        its.zero_grad()
        if disc:
            found = critic(window)
            bce(found, torch.ones_like(found)).backward()
            found = critic(g.detach())
            bce(found, torch.zeros_like(found)).backward()
            its.step()
    return generator, critic


@pytest.mark.parametrize(
    ("sync", "disc", "expert_bn"),
    [
        (0.03, 0.07, "eval"),
        slow(0.4, 0.3, "batch"),
        slow(0.0, 0.0, "eval"),
        slow(1.0, 0.0, "eval"),
    ],
)
def test_two_steps_match_the_original(sync, disc, expert_bn, monkeypatch):
    """In double precision: narrow batch norms and Adam amplify rounding to whole steps."""
    batches = [batch_of(0), batch_of(1)]
    generator, critic = original_training(batches, sync=sync, disc=disc, expert_bn=expert_bn)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    losses = GeneratorOptions(syncnet_wt=sync, disc_wt=disc, expert_bn=expert_bn, sync_weight=sync)
    state, objective = training_of(losses)
    for network in (*(trained.network for trained in state.networks.values()), objective._syncnet):
        network.double()
    for batch in batches:
        doubles = {name: getattr(batch.samples, name).astype(np.float64) for name in ("mels", "frame_mels")}
        advance(state, objective, [with_arrays(batch, **doubles)])
    for kind, original in (("generator", generator), *([("discriminator", critic)] if disc else [])):
        start = golden_weights(type(original)(2)).state_dict()
        assert difference(start, original.state_dict()) > 1e-4
        assert difference(state.networks[kind].network.state_dict(), original.state_dict()) < 1e-6, kind


@pytest.mark.any_device
def test_each_network_gets_gradients_of_its_own_loss_only():
    state, objective = training_of(GeneratorOptions(disc_wt=0.07, syncnet_wt=0.03))
    generator, critic = (trained.network for trained in state.networks.values())
    phases = objective.step(batch_of(0))
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


@pytest.mark.any_device
def test_total_is_the_weighted_sum():
    _, objective = training_of(GeneratorOptions(disc_wt=0.2, syncnet_wt=0.1))
    losses = next(objective.step(batch_of(0)))
    total, parts = losses.total.item(), {name: value.item() for name, value in losses.parts.items()}
    assert set(parts) == {"l1", "sync", "quality", "sync_weight"}
    assert parts["sync_weight"] == pytest.approx(0.1)
    wanted = 0.1 * parts["sync"] + 0.2 * parts["quality"] + 0.7 * parts["l1"]
    assert total == pytest.approx(wanted, rel=1e-5)
    assert losses.total.dtype == torch.float32
    _, plain = training_of(GeneratorOptions())
    assert set(next(plain.step(batch_of(0))).parts) == {"l1", "sync_weight"}


@pytest.mark.any_device
def test_sync_loss_is_of_the_judged_samples():
    def of_rows(rows: list[int], **options: float) -> float:
        _, objective = training_of(GeneratorOptions(syncnet_wt=0.1, **options))
        batch = with_arrays(batch_of(0), judged=np.array(rows, np.float32))
        return next(objective.step(batch)).parts["sync"].item()

    both, first, second, none = (of_rows(rows) for rows in ([1, 1], [1, 0], [0, 1], [0, 0]))
    assert of_rows([1, 0], sync_augmented=0.5) == pytest.approx((first + second / 2) / 1.5, rel=1e-5)
    assert both == pytest.approx((first + second) / 2, rel=1e-5)
    assert first != second and none == 0


@pytest.mark.any_device
def test_two_accumulated_batches_equal_one_large_batch():
    """With batch norms in eval mode."""
    full = batch_of(0, 4)
    halves = [
        Batch(0, 2, full.clips[rows], TargetSample(*(array[rows] for array in full.samples)))
        for rows in (slice(0, 2), slice(2, 4))
    ]
    found = []
    for batches, options in (([full], TrainOptions()), (halves, TrainOptions(accumulate=2))):
        state, objective = training_of(GeneratorOptions(syncnet_wt=0.1))
        for module in state.main.network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        state.main.optimizer.step = lambda: None
        values = advance(state, objective, batches, options)
        found.append((values, [p.grad.clone() for p in state.main.network.parameters()]))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        # As a whole: single numbers near 0 are rounded by another order of summation.
        assert float((one - other).norm()) <= 1e-3 * float(other.norm()) + 1e-6


def test_schedule_rises_for_good():
    schedule = LossSchedule(GeneratorOptions(sync_weight=0.03))
    for held_out, weight in ((0.9, 0), (0.75, 0), (float("nan"), 0), (0.74, 0.03), (0.9, 0.03)):
        assert schedule.update({"sync": held_out}) == {"sync_weight": weight}
        assert schedule.sync_weight == weight
    again = LossSchedule(GeneratorOptions(sync_weight=0.05))  # the current options win
    again.load_state_dict(schedule.state_dict())
    assert again.sync_weight == 0.05
    high = LossSchedule(GeneratorOptions(syncnet_wt=0.2, sync_weight=0.01))
    high.update({"sync": 0.1})
    assert high.sync_weight == 0.2  # it never falls
    assert GeneratorOptions().risen_weight == 0.01
    assert GeneratorOptions(disc_wt=0.07).risen_weight == 0.03
    assert GeneratorOptions(disc_wt=0.07, sync_weight=0.2).risen_weight == 0.2


def test_weights_rise_at_a_step():
    schedule = LossSchedule(
        GeneratorOptions(sync_weight=0.04, sync_from=10, disc_wt=0.1, disc_from=30, ramp_steps=4)
    )
    found = []
    for step in (0, 9, 10, 11, 13, 29, 30, 40):
        schedule.begin(step)
        found.append(schedule.weights)
    assert [weights.sync for weights in found] == pytest.approx([0, 0, 0.01, 0.02, 0.04, 0.04, 0.04, 0.04])
    assert [weights.quality for weights in found] == pytest.approx([0] * 6 + [0.025, 0.1])
    assert [sum(weights) for weights in found] == pytest.approx([1] * len(found))
    assert schedule.update({"sync": 0.1}) == {"sync_weight": 0.04}
    assert schedule.state_dict()["passed"] is False, "the step decides, not the gate"
    patches = LossSchedule(GeneratorOptions(patch_disc_wt=0.3)).weights
    assert (patches.pixels, patches.quality) == (1, 0.3), "the weight of a gradient takes none from the L1"


@pytest.mark.any_device
def test_patches_push_as_hard_as_the_pixels():
    _, objective = training_of(GeneratorOptions(patch_disc_wt=0.3, mouth_weight=4))
    critic = objective._critic
    target = torch.rand(2, 3, 5, 96, 96).to(DEVICE)
    generated = (target + 0.1).requires_grad_()
    quality = critic.quality(generated)
    (push,) = torch.autograd.grad(quality.term, generated)
    assert not push[..., :48, :].any()
    pixels, _ = objective._pixel_losses(generated, target)
    (l1,) = torch.autograd.grad(pixels, generated)
    assert float(push.norm()) == pytest.approx(float(l1[..., 48:, :].norm()), rel=1e-4)
    assert all(p.grad is None and p.requires_grad for p in critic._trained.network.parameters())
    own = critic.losses(target, generated)
    own.total.backward()
    assert generated.grad is None
    assert set(own.parts) == {"disc_real", "disc_fake"}


@pytest.mark.any_device
def test_lpips_is_a_loss_of_the_lower_halves(tmp_path):
    _, objective = training_of(GeneratorOptions(lpips_weight=0.5))
    objective._lpips = Lpips(*write_lpips(tmp_path)).to(DEVICE)
    generated, target = (torch.rand(2, 3, 5, 96, 96).to(DEVICE).requires_grad_() for _ in range(2))
    total, parts = objective._pixel_losses(generated, target.detach())
    torch.testing.assert_close(total, parts["l1"] + 0.5 * parts["lpips"])
    pairs = ((x.detach()[1:, :, 4, 48:] * 255).byte().permute(0, 2, 3, 1) for x in (generated, target))
    (last,) = objective._lpips.of_images(*pairs)
    assert parts["lpips"].item() == pytest.approx(last, rel=0.2), "all faces are alike"
    (gradient,) = torch.autograd.grad(parts["lpips"], generated)
    assert not gradient[..., :48, :].any() and gradient[..., 48:, :].abs().amin(dim=(1, 3, 4)).gt(0).all()


def test_lpips_in_a_training(clips, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    alexnet, linear = write_lpips(tmp_path)
    (tmp_path / "bad.pth").write_bytes(b"no weights")
    for flags, named in (
        ({"lpips_weight": 0.1}, "--lpips_weight 0.1"),
        ({"lpips": linear}, "--lpips "),
        ({"lpips_weight": 0.1, "lpips": "bad.pth", "alexnet": alexnet}, "bad.pth"),
    ):
        assert main.main(command(clips, tmp_path / "out", GENERATOR, steps=1, **flags)) != 0
        assert named in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    flags = {"lpips_weight": 0.1, "alexnet": alexnet, "lpips": linear}
    out = train(clips, tmp_path / "out", GENERATOR, steps=1, log_interval=1, **flags)
    assert lines(out, "train")[0]["lpips"] > 0


@pytest.mark.any_device
def test_discriminator_starts_at_its_step():
    state, objective = training_of(GeneratorOptions(patch_disc_wt=0.3, disc_from=1))
    network = state.networks["patch_discriminator"].network
    before = {name: value.clone() for name, value in network.named_parameters()}
    first = advance(state, objective, [batch_of(0)])
    assert "quality" not in first and all(torch.equal(before[n], p) for n, p in network.named_parameters())
    second = advance(state, objective, [batch_of(1)])
    assert {"quality", "disc_real", "disc_fake"} < set(second)
    assert any(not torch.equal(before[n], p) for n, p in network.named_parameters())


@pytest.mark.slow
def test_schedule_in_a_training(clips, tmp_path, caplog):
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
    assert "no discriminator checkpoint" in caplog.text
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
    train(
        clips, out, GENERATOR, steps=1, checkpoint_interval=1
    )  # from scratch: all lines belong to another run
    assert lines(out, "train") == []


@pytest.mark.any_device
def test_sheet_shows_reference_masked_generated_and_true_face():
    samples = batch_of(0).samples
    targets, references = (
        torch.from_numpy(images).to(DEVICE) for images in (samples.targets, samples.references)
    )
    target = targets.permute(0, 4, 1, 2, 3).float() / 255
    pairs = generator_input(target, face_windows(references))
    sheet = _sheet(pairs, 1 - target, target)
    assert sheet.shape == (192, 384, 3)
    middle = samples.targets[0, 2]
    np.testing.assert_array_equal(sheet[:96, 288:], middle)
    np.testing.assert_array_equal(sheet[:96, 192:288], 255 - middle)
    np.testing.assert_array_equal(sheet[:96, :96], samples.references[0, 2])
    np.testing.assert_array_equal(sheet[:48, 96:192], middle[:48])
    assert not sheet[48:96, 96:192].any()


def test_lower_halves_are_frame_by_frame():
    faces = torch.rand(2, 3, 5, 96, 96)
    wanted = torch.cat([faces[:, :, k, 48:] for k in range(5)], dim=1)
    assert torch.equal(syncnet_input(faces), wanted)


@pytest.mark.any_device
@pytest.mark.parametrize("mode", ["eval", "batch"])
def test_batch_norms_of_syncnet(mode):
    """In eval mode the embedding of a window does not depend on the rest of the batch."""
    _, objective = training_of(GeneratorOptions(expert_bn=mode))
    syncnet = objective._syncnet
    weight = syncnet.face_encoder[0].conv_block[0].weight.clone()
    mel_windows, windows = (torch.rand(shape).to(DEVICE) for shape in ((3, 1, 80, 16), (3, 15, 48, 96)))
    alone, with_other = (
        syncnet(mel_windows[:2], windows[:2])[1][0],
        syncnet(mel_windows[[0, 2]], windows[[0, 2]])[1][0],
    )
    assert torch.allclose(alone, with_other, atol=1e-6) == (mode == "eval")
    assert not any(p.requires_grad for p in syncnet.parameters())
    assert torch.equal(syncnet.face_encoder[0].conv_block[0].weight, weight)


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ({"expert_bn": "both"}, "--expert_bn 'both'"),
        ({"disc_wt": 1.5}, "--disc_wt 1.5"),
        ({"syncnet_wt": -0.1}, "--syncnet_wt -0.1"),
        ({"disc_wt": 0.6, "sync_weight": 0.6}, "--disc_wt 0.6"),
        ({"disc_wt": 0.07, "patch_disc_wt": 0.3}, "--patch_disc_wt"),
        ({"sync_from": -1}, "--sync_from -1"),
        ({"eval_batches": 0}, "--eval_batches 0"),
    ],
)
def test_options_out_of_range(flags, text):
    with pytest.raises(UsageError, match=text):
        GeneratorOptions(**flags)


@pytest.mark.any_device
def test_evaluation_is_reproducible(clips, tmp_path):
    """Held-out windows are fixed, so constant weights give constant figures."""
    out = train(clips, Path(tmp_path), GENERATOR, steps=2, eval_interval=1, initial_learning_rate=1e-30)
    one, other = lines(out, "held_out")
    assert one["sync"] == pytest.approx(other["sync"], abs=0.02)  # the running statistics do move


def test_train_generator_takes_options_by_name(clips, tmp_path):
    result = train_generator(
        clips / "data", tmp_path, filelists=str(clips / "lists"), device=str(DEVICE.type), width=2,
        syncnet_checkpoint_path=str(clips / "syncnet.pth"), batch_size=2, steps=1, eval_interval=1,
        eval_batches=1, num_workers=1, disc_wt=0.07,
    )  # fmt: skip
    assert (result.step, result.checkpoint) == (1, tmp_path / "checkpoint_step000000001.pth")
    assert result.best_checkpoint == result.checkpoint
    assert set(result.held_out) == {"l1", "sync", "quality", "sync_weight"}
    assert (tmp_path / "disc_checkpoint_step000000001.pth").exists()


def test_options_that_contradict_each_other(tmp_path):
    with pytest.raises(UsageError, match="--batch_size 1 --expert_bn batch"):
        train_generator(tmp_path, tmp_path, batch_size=1, expert_bn="batch")
    with pytest.raises(UsageError, match="--disc_checkpoint_path"):
        train_generator(tmp_path, tmp_path, disc_checkpoint_path="disc.pth")
