"""The first evaluation of a run, rising held-out losses, and early stopping."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from typing import Any

import pytest
import torch

from support.marks import slow
from support.networks import golden_weights
from support.trainings import (
    GENERATOR,
    ORIGINAL,
    SYNCNET,
    assert_same,
    assert_same_checkpoints,
    command,
    lines,
    read,
    train,
)
from wav2lip_npu.cli import main
from wav2lip_npu.cli.train_progress import Estimate, log_progress
from wav2lip_npu.models.networks import SyncNet
from wav2lip_npu.training import first_look, loop
from wav2lip_npu.training.evaluations import Evaluations
from wav2lip_npu.training.first_look import FirstLook
from wav2lip_npu.training.held_out import HeldOutTrend
from wav2lip_npu.training.options import TrainOptions
from wav2lip_npu.training.task import Evaluation


def steps_of(out: Any) -> list[int]:
    return sorted(int(path.stem[-9:]) for path in out.glob("checkpoint_step*.pth"))


@pytest.fixture
def held_out_losses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Held-out losses of the next evaluations; the last one is repeated."""
    losses = [0.5]
    real = Evaluations.__init__

    def init(self: Any, state: Any, task: Any, *arguments: Any) -> None:
        def figures(is_quick: bool) -> Evaluation:
            return Evaluation({"bce": losses.pop(0) if len(losses) > 1 else losses[0], "accuracy": 0.9})

        real(self, state, replace(task, evaluate=figures), *arguments)

    monkeypatch.setattr(Evaluations, "__init__", init)
    return losses


# First look


def test_first_look_after_minutes():
    """F5: the first evaluation of a run does not wait for thousands of steps."""
    now = [100.0]
    look = FirstLook(is_needed=True, clock=lambda: now[0])
    assert not look.is_due()
    now[0] += 300
    assert look.is_due()
    assert not FirstLook(is_needed=False, clock=lambda: now[0] + 300).is_due()


@pytest.mark.parametrize("words", [slow(SYNCNET), GENERATOR])
def test_first_checkpoint_figures_and_samples(clips, tmp_path, monkeypatch, words):
    """F5: a checkpoint, held-out figures and, for a generator, sample images; once."""
    monkeypatch.setattr(first_look, "_AFTER_S", 0.0)
    out = train(clips, tmp_path / "out", words, steps=3)
    assert steps_of(out) == [1, 3]
    assert [row["step"] for row in lines(out, "held_out")] == [1]
    assert [path.name for path in out.glob("samples*")] == (
        ["samples_step000000001.jpg"] if words is GENERATOR else []
    )
    train(clips, out, words, steps=5, eval_interval=5)
    assert [row["step"] for row in lines(out, "held_out")] == [
        1,
        4,
        5,
    ]  # the run has no best figure yet
    train(clips, out, words, steps=7)
    assert [row["step"] for row in lines(out, "held_out")] == [
        1,
        4,
        5,
        7,
    ]  # no first evaluation, but one at the end


@pytest.mark.parametrize("words", [slow(SYNCNET), GENERATOR])
def test_first_look_does_not_change_the_training(clips, tmp_path, monkeypatch, words):
    """F5: it depends on the clock, the training must not."""
    flags = (
        {"steps": 4, "eval_interval": 3, "sync_gate": 100}
        if words is GENERATOR
        else {"steps": 4, "eval_interval": 3}
    )
    once = train(clips, tmp_path / "once", words, **flags)
    monkeypatch.setattr(first_look, "_AFTER_S", 0.0)
    looked = train(clips, tmp_path / "looked", words, **flags)
    assert steps_of(looked) == [1, 4]
    assert_same_checkpoints(once, looked, 4)
    assert lines(looked, "held_out")[1:] == lines(once, "held_out")


def test_continued_run_is_evaluated_first(clips, tmp_path):
    """F1: held-out figures before the first step show the effect of the training."""
    weights = golden_weights(SyncNet(2)).state_dict()
    torch.save({"state_dict": weights, "optimizer": None, "global_step": 50}, tmp_path / "expert.pth")
    out = train(clips, tmp_path / "out", SYNCNET, steps=52, checkpoint_path=tmp_path / "expert.pth")
    assert [row["step"] for row in lines(out, "held_out")] == [50, 52]
    assert read(out / "checkpoint_step000000052.pth")["wav2lip_npu"]["best_step"] == 50
    train(clips, out, SYNCNET, steps=53)
    assert [row["step"] for row in lines(out, "held_out")] == [50, 52, 53]


# Rising losses


@pytest.mark.parametrize(
    ("training", "held_out", "warned"),
    [
        ([0.5, 0.4, 0.3, 0.2, 0.1], [0.65, 0.6, 0.7, 0.8, 0.92], 3),
        ([0.5, 0.4, 0.3, 0.2, 0.1], [0.65, 0.6, 0.59, 0.58, 0.57], None),
        ([0.5, 0.4, 0.45, 0.5, 0.6], [0.65, 0.6, 0.7, 0.8, 0.92], None),
        ([0.5, 0.4, 0.3, 0.2, 0.1], [0.6, 0.605, 0.61, 0.6, 0.61], None),
        ([0.5, 0.4, 0.3, 0.2, 0.1], [0.6, 0.7, 0.59, 0.7, 0.59], None),
    ],
)
def test_rising_held_out_loss_is_reported_once(caplog, training, held_out, warned):
    """F8: the held-out loss rises while the training loss falls."""
    trend, counts = HeldOutTrend(), []
    for number, (own, other) in enumerate(zip(training, held_out, strict=True)):
        trend.update(1000 * number, "bce", own, other)
        counts.append(caplog.text.count("memorizes its clips"))
    assert counts == [0] * 5 if warned is None else counts == [0] * warned + [1] * (5 - warned)
    if warned is not None:
        assert "step 1000" in caplog.text
        assert "--patience" in caplog.text


@pytest.mark.parametrize("patience", [slow(1), 2])
def test_patience(clips, tmp_path, caplog, held_out_losses, patience):
    """F8: training stops after some evaluations without improvement, and keeps the best checkpoint."""
    held_out_losses[:] = [0.5, 0.4, 0.45, 0.6, 0.7]
    flags = {"steps": 40, "eval_interval": 2, "patience": patience, "keep": 1}
    out = train(clips, tmp_path / "out", ORIGINAL, **flags)
    last = 4 + 2 * patience
    assert [row["step"] for row in lines(out, "held_out")] == list(range(2, last + 1, 2))
    assert steps_of(out) == [4, last]
    assert (
        f"stopping: the held-out loss has not been below 0.4, that of step 4, for {patience}" in caplog.text
    )
    train(clips, out, ORIGINAL, **flags)
    assert "nothing to do: the held-out loss" in caplog.text
    assert steps_of(out) == [4, last]
    train(clips, out, ORIGINAL, **{**flags, "patience": 20, "steps": last + 1})
    assert steps_of(out) == [4, last + 1]


def test_patience_of_a_resumed_run(clips, tmp_path, held_out_losses):
    """F8: evaluations of the run before the resume count."""
    held_out_losses[:] = [0.5, 0.6]
    flags = {"eval_interval": 1, "patience": 3}
    once = train(clips, tmp_path / "once", ORIGINAL, steps=40, **flags)
    held_out_losses[:] = [0.5, 0.6]
    twice = train(clips, tmp_path / "twice", ORIGINAL, steps=3, **flags)
    train(clips, twice, ORIGINAL, steps=40, **flags)
    assert max(steps_of(once)) == max(steps_of(twice)) == 4
    assert_same(read(once / "checkpoint_step000000004.pth"), read(twice / "checkpoint_step000000004.pth"))


def test_training_continues_without_patience(clips, tmp_path, caplog, held_out_losses):
    """F8: the warning does not stop the training."""
    held_out_losses[:] = [0.5, 0.6, 0.7, 0.8, 0.9]
    train(clips, tmp_path / "out", ORIGINAL, steps=6, eval_interval=1)
    assert steps_of(tmp_path / "out") == [6]
    assert caplog.text.count("memorizes its clips") <= 1


# Progress


def test_estimate_of_the_time_left():
    """F5: the time until the next evaluation is known without --steps, too."""
    now = [0.0]
    estimate = Estimate(TrainOptions(eval_interval=3000), clock=lambda: now[0])
    assert estimate.update(1) == ""
    now[0] = 10.0
    assert estimate.update(21) == "2 steps/s, evaluation at step 3000 in 24 min"
    estimate = Estimate(TrainOptions(eval_interval=10, steps=10_000), clock=lambda: now[0])
    estimate.update(100)
    now[0] = 20.0
    assert estimate.update(101) == "0.1 steps/s, evaluation at step 110 in 1 min 30 s, 1 d 3 h left"


def test_one_line_per_minute_without_a_terminal(caplog):
    """F5: the log shows progress, however long a step takes."""
    now = [0.0]
    show = log_progress(Estimate(TrainOptions(), clock=lambda: now[0]), clock=lambda: now[0])
    caplog.set_level("INFO")
    for step in range(1, 31):
        now[0] += 7
        show(step, {"l1": 0.25})
    assert [line.split(":")[0] for line in caplog.messages] == ["step 9", "step 18", "step 27"]
    assert "l1 0.25" in caplog.messages[0]
    assert "evaluation at step 3000 in 5 h" in caplog.messages[0]


def test_commands_log_their_progress(clips, tmp_path, monkeypatch, caplog):
    """F5: both trainings, without a terminal."""
    from wav2lip_npu.cli import train_progress

    monkeypatch.setattr(train_progress, "_LINE_EVERY_S", 0.0)
    train(clips, tmp_path / "out", ORIGINAL, steps=3)
    assert "evaluation at step 10000 in" in caplog.text
    assert " left" in caplog.text


# End of a run


@pytest.mark.slow
@pytest.mark.parametrize("words", [SYNCNET, GENERATOR])
def test_run_that_ends_early_has_figures(clips, tmp_path, words):
    """F5: a run of fewer steps than --eval_interval is evaluated at its end, which changes no later step."""
    out = train(clips, tmp_path / "out", words, steps=3)
    assert [row["step"] for row in lines(out, "held_out")] == [3]
    assert len(list(out.glob("samples*"))) == (words is GENERATOR)
    assert read(out / "checkpoint_step000000003.pth")["wav2lip_npu"]["best"] is None
    train(clips, out, words, steps=3)
    train(clips, out, words, steps=5, eval_interval=4)
    assert [row["step"] for row in lines(out, "held_out")] == [3, 4]


@pytest.mark.alone
def test_interrupted_run_has_figures(clips, tmp_path, monkeypatch, caplog):
    """F5: Ctrl-C saves first, then evaluates a few samples."""
    out, advance = tmp_path / "out", loop._advance
    caplog.set_level("INFO")

    def interrupted(*arguments):
        monkeypatch.setattr(loop, "_advance", advance)
        os.kill(os.getpid(), signal.SIGINT)
        return advance(*arguments)

    monkeypatch.setattr(loop, "_advance", interrupted)
    assert main.main(command(clips, out, GENERATOR, log_interval=1)) == 130
    text = caplog.text
    (step,) = steps_of(out)
    assert text.index(f"step {step} saved") < text.index(f"step {step}, held out (a few samples)")
    assert [row["step"] for row in lines(out, "held_out")] == [step]
    assert [path.name for path in out.glob("samples*")] == [f"samples_step{step:09d}.jpg"]
