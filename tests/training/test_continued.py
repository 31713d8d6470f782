"""Continue from weights without optimizer state, and from damaged or mismatched checkpoints."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from support.devices import DEVICE
from support.marks import slow
from support.networks import golden_weights
from support.trainings import (
    GENERATOR,
    ORIGINAL,
    SYNCNET,
    WITH_DISC,
    assert_same_checkpoints,
    command,
    lines,
    read,
    train,
)
from wav2lip_npu.cli import main
from wav2lip_npu.devices import mixed_precision
from wav2lip_npu.errors import CheckpointError, OutputError
from wav2lip_npu.models.checkpoint import Checkpoint
from wav2lip_npu.models.networks import NETWORKS, SyncNet
from wav2lip_npu.training.checkpoints import path_of
from wav2lip_npu.training.metrics_log import Curves
from wav2lip_npu.training.options import TrainOptions
from wav2lip_npu.training.state import CONTINUED_WARMUP, TrainState
from wav2lip_npu.training.trained_network import trained_network


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The learning rate of each step of each optimizer."""
    seen: list[float] = []
    real = torch.optim.Adam.step

    def step(self: Any, *arguments: Any) -> Any:
        seen.append(self.param_groups[0]["lr"])
        return real(self, *arguments)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    return seen


def published(path: Path, kind: str = "syncnet", **more: Any) -> Path:
    """Write weights as the original publishes them: with a step, without optimizer state."""
    weights = golden_weights(NETWORKS[kind](2)).state_dict()
    torch.save(
        {"state_dict": weights, "optimizer": None, "global_step": 5000, "global_epoch": 9, **more}, path
    )
    return path


def test_rates_and_average_of_a_continued_syncnet(clips, tmp_path, rates, caplog):
    """F1: the rate is not multiplied, the warm-up begins at the loaded step, and the average keeps the weights."""
    expert = published(tmp_path / "expert.pth")
    start = golden_weights(SyncNet(2)).state_dict()
    out = train(clips, tmp_path / "out", SYNCNET, steps=5003, checkpoint_path=expert)
    assert rates == pytest.approx([1e-4 * n / CONTINUED_WARMUP for n in (1, 2, 3)])
    assert "expert.pth has no optimizer state" in caplog.text
    assert f"learning rate 0.0001, {CONTINUED_WARMUP} warm-up steps from step 5000" in caplog.text
    content = read(path_of(out, "syncnet", 5003))
    raw, averaged = content["wav2lip_npu"]["weights"], content["state_dict"]
    name = "face_encoder.0.conv_block.0.weight"
    moved, kept = (float((tensors[name] - start[name]).abs().max()) for tensors in (raw, averaged))
    assert 0 < kept < 0.05 * moved


def test_resumed_continuation_equals_an_uninterrupted_one(clips, tmp_path, rates):
    """F1: rate, warm-up and average of a continuation are in its checkpoints."""
    expert = published(tmp_path / "expert.pth")
    flags = {"eval_interval": 2}
    once = train(clips, tmp_path / "once", SYNCNET, steps=5004, checkpoint_path=expert, **flags)
    expected = list(rates)
    rates.clear()
    twice = train(clips, tmp_path / "twice", SYNCNET, steps=5002, checkpoint_path=expert, **flags)
    train(clips, twice, SYNCNET, steps=5004, **flags)
    assert rates == expected
    assert_same_checkpoints(once, twice, 5004)
    assert lines(once, "held_out") == lines(twice, "held_out")


@pytest.mark.parametrize("how", ["bare", "weights_only", "without state", slow("starter")])
def test_other_forms_of_weights_without_optimizer_state(clips, tmp_path, rates, how):
    """F1: bare weights, `--weights_only`, own checkpoints without state, and the bundled network."""
    words, path = SYNCNET, tmp_path / "x.pth"
    if how == "bare":
        torch.save(golden_weights(SyncNet(2)).state_dict(), path)
    elif how == "starter":
        path = "starter"
    else:
        own = train(clips, tmp_path / "own", [*SYNCNET, "--no_save_optimizer_state"], steps=1)
        path = path_of(own, "syncnet", 1)
        words = [*SYNCNET, "--weights_only"] if how == "weights_only" else SYNCNET
    rates.clear()
    flags = {"width": None} if how == "starter" else {}
    step = 2 if how == "without state" else 1
    out = train(clips, tmp_path / "out", words, steps=step, checkpoint_path=path, **flags)
    assert rates[0] == pytest.approx(1e-4 / CONTINUED_WARMUP)
    assert read(path_of(out, "syncnet", step))["wav2lip_npu"]["continued"] is True


@pytest.mark.slow
def test_own_training_without_optimizer_state_keeps_its_rate(clips, tmp_path, rates):
    """F1: a training that resumes from its own checkpoint keeps its rate, but Adam is warmed up."""
    words = [*SYNCNET, "--no_save_optimizer_state"]
    out = train(clips, tmp_path / "out", words, steps=1)
    train(clips, out, words, steps=2)
    assert rates == pytest.approx([1e-3 / 20, 1e-3 / 20])
    train(clips, tmp_path / "fresh", SYNCNET, steps=21)
    assert rates[-1] == 1e-3


def test_warmup_option_and_original_recipe(clips, tmp_path, rates):
    """F1: --warmup_steps counts from the step of the checkpoint; checkpoints with state have none."""
    expert = published(tmp_path / "expert.pth")
    train(clips, tmp_path / "a", ORIGINAL, steps=5002, checkpoint_path=expert, warmup_steps=4)
    assert rates == pytest.approx([0.25e-4, 0.5e-4])
    rates.clear()
    train(clips, tmp_path / "b", ORIGINAL, steps=5001, checkpoint_path=expert)
    train(clips, tmp_path / "b", ORIGINAL, steps=5002)
    assert rates == pytest.approx([1e-4 / CONTINUED_WARMUP, 2e-4 / CONTINUED_WARMUP])
    rates.clear()
    train(clips, tmp_path / "c", ORIGINAL, steps=2)
    assert rates == [1e-4, 1e-4]


def test_generator_and_new_discriminator(clips, tmp_path, rates):
    """F1: each network has its own warm-up."""
    weights = published(tmp_path / "wav2lip.pth", "generator")
    train(clips, tmp_path / "out", WITH_DISC, steps=5001, checkpoint_path=weights, warmup_steps=10)
    assert rates == pytest.approx([1e-5, 1e-5])
    rates.clear()
    train(clips, tmp_path / "plain", GENERATOR, steps=5001, checkpoint_path=weights)
    assert rates == pytest.approx([1e-4 / CONTINUED_WARMUP])


def test_discriminator_of_another_run(clips, tmp_path, rates, caplog):
    """A discriminator without its generator, whose warm-up began at a later step than that of the new run."""
    weights = published(tmp_path / "wav2lip.pth", "generator")
    flags = {"checkpoint_path": weights, "warmup_steps": 10}
    before = train(clips, tmp_path / "before", WITH_DISC, steps=5001, **flags)
    rates.clear()
    disc = path_of(before, "discriminator", 5001)
    flags = {"disc_checkpoint_path": disc, "learning_rate": 1e-12, "disc_initial_learning_rate": 1e-3}
    out = train(clips, tmp_path / "out", WITH_DISC, steps=1, **flags)
    assert rates == pytest.approx([1e-12, 1e-3 / 10])
    (name, start), *_ = read(disc)["state_dict"].items()
    moved = read(path_of(out, "discriminator", 1))["state_dict"][name] - start
    assert 0 < float(moved.abs().max()) < 1e-3
    caplog.clear()
    train(clips, out, WITH_DISC, steps=2, **flags)
    assert "--disc_checkpoint_path" in caplog.text and str(path_of(out, "discriminator", 1)) in caplog.text


@pytest.mark.parametrize("words", [pytest.param(SYNCNET, marks=pytest.mark.slow), GENERATOR])
def test_width_that_differs_from_the_checkpoint(clips, tmp_path, words, capsys):
    """F7: --width is refused if the checkpoint has another width, and may be omitted."""
    out = train(clips, tmp_path / "out", words, steps=1)
    capsys.readouterr()
    for flags in ({}, {"checkpoint_path": next(out.glob("checkpoint*.pth"))}):
        assert main.main(command(clips, out, words, steps=2, **{**flags, "width": 8})) == 2
        error = capsys.readouterr().err
        assert "--width 8" in error
        assert "checkpoint_step000000001.pth has the width 2" in error
    assert main.main(command(clips, out, words, steps=2, width=None)) == 0
    assert read(out / "checkpoint_step000000002.pth")["wav2lip_npu"]["width"] == 2


@pytest.fixture(scope="module")
def two_steps(clips, tmp_path_factory) -> Path:
    """Checkpoints of the first two steps of a generator and its discriminator."""
    return train(clips, tmp_path_factory.mktemp("two") / "out", WITH_DISC, steps=2, checkpoint_interval=1)


@pytest.mark.parametrize("name", ["checkpoint_step000000002.pth", "disc_checkpoint_step000000002.pth"])
@pytest.mark.parametrize("place", [slow(0.3), 0.5, slow(0.8)])
def test_inverted_bytes_in_the_newest_checkpoint(clips, two_steps, tmp_path, caplog, name, place):
    """A6: it is reported as damaged, and the previous one is used."""
    out = shutil.copytree(two_steps, tmp_path / "out")
    once = read(out / "checkpoint_step000000002.pth")
    content = bytearray((out / name).read_bytes())
    middle = int(len(content) * place)
    content[middle : middle + 200] = bytes(255 - value for value in content[middle : middle + 200])
    (out / name).write_bytes(content)
    caplog.clear()
    train(clips, out, WITH_DISC, steps=2, checkpoint_interval=1)
    (warning,) = [
        r.getMessage() for r in caplog.records if r.levelname == "WARNING" and "damaged" in r.getMessage()
    ]
    assert name in warning
    assert "resuming from step 1" in caplog.text
    again = read(out / "checkpoint_step000000002.pth")
    assert all(torch.equal(again["state_dict"][key], once["state_dict"][key]) for key in once["state_dict"])


@pytest.fixture(scope="module")
def first_step(clips, tmp_path_factory) -> Path:
    """Checkpoint of the first step of a generator."""
    return train(clips, tmp_path_factory.mktemp("one") / "out", GENERATOR, steps=1, average=0.9)


@pytest.mark.parametrize(
    "changes",
    [
        {"position": 1 << 60},
        slow({"position": -5}),
        slow({"position": float("inf")}),
        slow({"best": "low"}),
        {"best": float("nan")},
        slow({"best_step": None}),
        slow({"rng": 3}),
        slow({"warmup": "ab"}),
        {"average": -1},
        slow({"extras": 5}),
        {"position": "9" * 5000},
    ],
)
def test_invalid_training_state_is_refused(clips, first_step, tmp_path, changes, capsys):
    out = shutil.copytree(first_step, tmp_path / "out")
    path = path_of(out, "generator", 1)
    content = read(path)
    content["wav2lip_npu"] |= changes
    torch.save(content, path)
    capsys.readouterr()
    assert main.main(command(clips, out, GENERATOR, steps=2, average=0.9)) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("wav2lip-npu: ")]
    assert f"{path}: its training state does not fit" in line
    assert len(line) < 400 + len(str(path))


@pytest.mark.parametrize("content", ["", "\n \n", "\ufeff"])
def test_empty_validation_list_is_like_none(clips, tmp_path, caplog, content):
    """D: the held-out figures are then computed on the training clips."""
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "train.txt").write_text(
        "".join(f"{clips}/data/{line}\n" for line in (clips / "lists/train.txt").read_text().split())
    )
    (lists / "val.txt").write_text(content)
    train(clips, tmp_path / "out", ORIGINAL, steps=1, eval_interval=1, filelists=lists)
    assert f"{lists / 'val.txt'} lists no clips" in caplog.text
    assert lines(tmp_path / "out", "held_out")


def test_foreign_curves_are_not_replaced(tmp_path):
    """A5: a file that is not of a training is refused; a single incomplete line of a killed run is not."""
    path = tmp_path / "curves.jsonl"
    path.write_text("hello\nworld\n")
    with pytest.raises(OutputError, match=str(path)):
        Curves(tmp_path, 0)
    assert path.read_text() == "hello\nworld\n"
    path.write_text('{"part": "tr')
    Curves(tmp_path, 0).close()
    assert path.read_text() == ""


def test_curves_on_a_full_disk(tmp_path, monkeypatch):
    """B10: the error names the file."""
    curves = Curves(tmp_path, 0)

    def fail(*values: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(curves._board, "add_scalar", fail)
    with pytest.raises(OutputError, match=str(tmp_path / "curves.jsonl")):
        curves.write("train", 1, {"l1": 0.5})
    curves.close()


def test_damaged_lines_of_the_curves_are_dropped(clips, tmp_path, caplog):
    """A13: also in curves.jsonl, which a resumed run reads."""
    out = train(clips, tmp_path / "out", ORIGINAL, steps=1, eval_interval=1)
    (line,) = lines(out, "held_out")
    with (out / "curves.jsonl").open("ab") as file:
        for damage in (b"[" * 200_000, b'{"step": []}', b"[1]", b"5", b'{"step"', b"\xff\0"):
            file.write(damage + b"\n")
    train(clips, out, ORIGINAL, steps=2, eval_interval=2)
    assert [row["step"] for row in lines(out, "held_out")] == [line["step"], 2]
    assert caplog.text.count("dropped a damaged line") == 6


ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([torch.zeros(2)]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3) | st.integers(0, 3), inner, max_size=3)
    ),
    max_leaves=5,
)


def paths_of(content: Any, depth: int = 4) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of the values in nested dicts."""
    if isinstance(content, dict) and depth:
        for key, value in content.items():
            yield (key,)
            yield from ((key, *path) for path in paths_of(value, depth - 1))


@pytest.fixture(scope="module")
def whole_state(tmp_path_factory: pytest.TempPathFactory) -> tuple[Callable[[], TrainState], dict[str, Any]]:
    """A function that creates a training state, and the content of its checkpoint."""
    options = TrainOptions(average=0.9, amp="fp16")

    def new() -> TrainState:
        trained = trained_network("syncnet", golden_weights(SyncNet(2)), options, DEVICE)
        return TrainState(
            {"syncnet": trained}, DEVICE, mixed_precision.grad_scaler(DEVICE, "fp16", "dynamic")
        )

    state = new()
    sum(parameter.sum() for parameter in state.main.network.parameters()).backward()
    state.main.optimizer.step()
    return new, read(state.save(tmp_path_factory.mktemp("state")))


@pytest.mark.slow
@pytest.mark.parametrize("part", ["optimizer", "wav2lip_npu", "global_step", "global_epoch"])
def test_any_value_in_the_training_state(part, whole_state, tmp_path):
    """A6: an untrusted training state is restored or refused."""
    new, content = whole_state
    places = [path for path in paths_of(content) if path[0] == part]

    @hypothesis.settings(
        max_examples=25, database=None, deadline=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    @hypothesis.given(st.sampled_from(places), ANY)
    def run(place: tuple[Any, ...], value: Any) -> None:
        changed = inner = dict(content)
        for key in place[:-1]:
            inner[key] = inner = dict(inner[key])
        inner[place[-1]] = value
        loaded = Checkpoint("syncnet", content["state_dict"], 2, changed, tmp_path / "x.pth")
        state = new()
        try:
            state.restore({"syncnet": loaded})
        except CheckpointError as error:
            assert "\n" not in str(error)
            assert len(str(error)) < 500 + len(str(tmp_path))
            return
        assert 0 < state.main.rate(state.step) <= 1e-4
        assert state.position >= 0
        assert state.scaler.get_scale() > 0
        state.save(tmp_path)

    run()
