"""Four steps equal three steps, a stop of any kind, and a resumed step."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

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
    start,
    train,
)
from wav2lip_npu.cli import main
from wav2lip_npu.models import checkpoint
from wav2lip_npu.models.networks import SyncNet
from wav2lip_npu.storage.atomic import part_path
from wav2lip_npu.training.checkpoints import newest, path_of
from wav2lip_npu.training.evaluations import Evaluations

KINDS = {
    "syncnet": (SYNCNET, {"accumulate": 2}),
    "original": (ORIGINAL, {"clip_grad_norm": 1}),
    "generator": (GENERATOR, {"syncnet_wt": 0.1, "accumulate": 2}),
    "larger": (
        [*GENERATOR, "--patch_disc_wt", 0.1],
        {"face_size": 192, "sync_from": 0, "gradient_weight": 1, "eval_interval": 2},
    ),
    "with_disc": (WITH_DISC, {"sync_gate": 100, "eval_interval": 2}),
}


@pytest.mark.parametrize(
    "kind",
    [
        "syncnet",
        pytest.param("with_disc", marks=pytest.mark.any_device),
        *(
            pytest.param(kind, marks=[pytest.mark.slow, pytest.mark.any_device])
            for kind in ("original", "generator", "larger")
        ),
    ],
)
def test_resumed_training_equals_an_uninterrupted_one(clips, tmp_path, kind):
    words, flags = KINDS[kind]
    flags = {"eval_interval": 2, "log_interval": 2, **flags}
    once = train(clips, tmp_path / "once", words, steps=4, **flags)
    twice = train(clips, tmp_path / "twice", words, steps=3, **flags)
    train(clips, twice, words, steps=4, **flags)
    assert_same_checkpoints(once, twice, 4)
    more = read(once / "checkpoint_step000000004.pth")["wav2lip_npu"]
    assert more["best_step"] in (2, 4)
    assert more["position"] == 4 * flags.get("accumulate", 1) * (4 if kind == "original" else 2)
    assert [row["step"] for row in lines(twice, "train")] == [2, 4]
    assert lines(once, "held_out") == lines(twice, "held_out")


def wait_for(done: Any, child: Any, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert child.poll() is None, child.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def killed(words: list[str], out: Path, draw: random.Random) -> bool:
    """Kill a training at a random moment after its first file. Return whether it was still running."""
    child = start(words)
    before = {(path.name, path.stat().st_mtime_ns) for path in out.glob("*")}
    wait_for(
        lambda: {(p.name, p.stat().st_mtime_ns) for p in existing(out)} != before or child.poll() == 0, child
    )
    time.sleep(draw.uniform(0, 0.6))
    child.kill()
    child.communicate()
    return child.returncode == -signal.SIGKILL


def existing(out: Path) -> list[Path]:
    """Return the files that exist, while others may be removed."""
    return [path for path in out.glob("*") if os.path.exists(path)]


KILLED_WHILE_WRITING = """
import io, os, signal, sys, torch
from wav2lip_npu.cli import main
save, written = torch.save, []
def half(content, file):
    whole = io.BytesIO()
    save(content, whole)
    written.append(None)
    if len(written) == int(sys.argv[1]):
        file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    file.write(whole.getvalue())
torch.save = half
main.main(sys.argv[2:])
"""


def kill_and_compare(clips: Path, tmp_path: Path, words: list[Any], kills: int, **flags: Any) -> None:
    """Kill a training while it writes a checkpoint, then at random moments, and finish it."""
    flags = {"checkpoint_interval": 1, "eval_interval": 4, **flags}
    once = train(clips, tmp_path / "once", words, **flags)
    out = tmp_path / "killed"
    out.mkdir()
    again = command(clips, out, words, **flags)
    (tmp_path / "writing.py").write_text(KILLED_WHILE_WRITING)
    child = start(["3", *again], str(tmp_path / "writing.py"))
    assert child.wait(60) == -signal.SIGKILL, child.communicate()[0]
    assert list(out.glob("*.part"))
    draw = random.Random(0)
    done = [killed(again, out, draw) for _ in range(kills)]
    assert done[0]
    assert main.main(again) == 0
    assert not list(out.glob("*.part"))
    assert_same_checkpoints(once, out, flags["steps"])


@pytest.mark.slow
def test_training_killed_at_random_moments(clips, tmp_path):
    kill_and_compare(clips, tmp_path, WITH_DISC, 1, steps=8)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", ["syncnet", "generator", "with_disc"])
def test_training_killed_ten_times(clips, tmp_path, kind):
    words, flags = KINDS[kind]
    kill_and_compare(clips, tmp_path, words, 10, steps=60, **{**flags, "eval_interval": 4})


def test_half_written_checkpoints(clips, tmp_path, caplog):
    """The newest complete checkpoint is used; partial files are removed, files of others are not."""
    once = train(clips, tmp_path / "once", WITH_DISC, steps=3, checkpoint_interval=1)
    out = shutil.copytree(once, tmp_path / "out")
    name = "checkpoint_step000000003.pth"
    torn = (out / name).read_bytes()
    (out / name).write_bytes(torn[: len(torn) // 2])
    (out / "checkpoint_step000000004.pth").write_bytes(b"")
    (out / "checkpoint_step000000005.pth").write_bytes(bytes(5000))
    (out / "disc_checkpoint_step000000009.pth").write_bytes(
        torn
    )  # its generator checkpoint was never written
    left = part_path(out / name)
    left = left.with_name(left.name.replace(f".{os.getpid()}-", ".4194305-"))
    left.write_bytes(b"half")
    notes = out / "checkpoint_step_notes.part"
    notes.write_bytes(b"notes")
    caplog.clear()
    train(clips, out, WITH_DISC, steps=3, checkpoint_interval=1)
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [text.split("checkpoint_step")[1][:9] for text in warned] == [
        "000000005",
        "000000004",
        "000000003",
    ]
    assert "resuming from step 2" in caplog.text
    assert_same_checkpoints(once, out, 3)
    assert not left.exists()
    assert notes.exists()
    damaged = "disc_checkpoint_step000000003.pth"
    (out / damaged).write_bytes(torn[:100])
    (out / "checkpoint_step000000004.pth").unlink()
    (out / "checkpoint_step000000005.pth").unlink()
    caplog.clear()
    train(clips, out, WITH_DISC, steps=3)
    assert "resuming from step 2" in caplog.text
    assert_same_checkpoints(once, out, 3)


def test_missing_checkpoint_behind_a_link(tmp_path, caplog):
    """A6: the newest checkpoint may be a link to a disk that is not mounted; the one before is used."""
    checkpoint.save(path_of(tmp_path, "syncnet", 4), golden_weights(SyncNet(width=2)), {"global_step": 4})
    path_of(tmp_path, "syncnet", 6).symlink_to(tmp_path / "unmounted" / "checkpoint_step000000006.pth")
    (tmp_path / "checkpoint_step0000000005.pth").write_bytes(b"not a name of ours")
    assert newest(tmp_path, ["syncnet"])["syncnet"].source == path_of(tmp_path, "syncnet", 4)
    assert "checkpoint_step000000006.pth" in caplog.text


def test_without_a_complete_checkpoint_training_starts_from_scratch(clips, tmp_path, caplog):
    out = tmp_path / "out"
    out.mkdir()
    (out / "checkpoint_step000000007.pth").write_bytes(b"PK\3\4")
    train(clips, out, ORIGINAL, steps=1)
    assert "has no complete checkpoint" in caplog.text
    assert "starting from scratch" in caplog.text
    assert read(out / "checkpoint_step000000001.pth")["global_step"] == 1


@pytest.mark.alone
@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_signal_saves_and_ends(clips, tmp_path, number):
    out = tmp_path / "out"
    words = command(clips, out, ORIGINAL, log_interval=1)
    child = start(words[1:], "color_syncnet_train.py")
    wait_for(lambda: (out / "curves.jsonl").exists() and (out / "curves.jsonl").stat().st_size > 0, child)
    child.send_signal(number)
    text, _ = child.communicate(timeout=60)
    assert child.returncode == 128 + number, text
    (path,) = out.glob("*.pth")
    step = read(path)["global_step"]
    assert path.name == f"checkpoint_step{step:09d}.pth"
    assert "stopping after this step" in text
    assert f"step {step} saved" in text
    assert "Traceback" not in text
    if number == signal.SIGTERM:  # the checkpoint equals that of an uninterrupted run
        assert_same_checkpoints(
            train(clips, tmp_path / "once", ORIGINAL, steps=step, log_interval=1), out, step
        )


@pytest.mark.alone
@pytest.mark.parametrize("kind", ["syncnet", pytest.param("with_disc", marks=pytest.mark.slow)])
def test_signal_in_an_evaluation(clips, tmp_path, monkeypatch, kind):
    """A2: the evaluation is repeated on resume, so that all checkpoints have the same bits."""
    words, flags = {"syncnet": (SYNCNET, {}), "with_disc": KINDS["with_disc"]}[kind]
    flags = {**flags, "eval_interval": 2, "steps": 4}
    once = train(clips, tmp_path / "once", words, **flags)
    out, evaluate = tmp_path / "out", Evaluations._evaluate

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*arguments)

    for _ in range(2):
        monkeypatch.setattr(Evaluations, "_evaluate", interrupted)
        assert main.main(command(clips, out, words, **flags)) == 128 + signal.SIGTERM
        assert read(out / "checkpoint_step000000002.pth")["wav2lip_npu"]["evaluation_due"]
        assert not lines(out, "held_out")
    monkeypatch.setattr(Evaluations, "_evaluate", evaluate)
    train(clips, out, words, **flags)
    assert_same_checkpoints(once, out, 4)
    assert lines(once, "held_out") == lines(out, "held_out")


SLOW_STEP = """
import sys, time
from wav2lip_npu.cli import main
from wav2lip_npu.training import loop
advance = loop._advance
def slow(*arguments):
    print("working", flush=True)
    for _ in range(600):
        time.sleep(0.1)
    return advance(*arguments)
loop._advance = slow
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.mark.alone
def test_second_signal_ends_at_once(clips, tmp_path):
    (tmp_path / "slow.py").write_text(SLOW_STEP)
    out = tmp_path / "out"
    child = start(command(clips, out, ORIGINAL), str(tmp_path / "slow.py"))
    assert any("working" in line for line in child.stdout)
    child.send_signal(signal.SIGTERM)
    time.sleep(1)
    assert child.poll() is None
    child.send_signal(signal.SIGTERM)
    text, _ = child.communicate(timeout=20)
    assert child.returncode == 143, text
    assert text.splitlines()[-1].startswith("wav2lip-npu: terminated")
    assert not list(out.glob("*.pth"))


def test_finished_training_stays_finished(clips, tmp_path):
    out = train(clips, tmp_path / "out", ORIGINAL, steps=2)
    before = (out / "checkpoint_step000000002.pth").read_bytes()
    train(clips, out, ORIGINAL, steps=2)
    train(clips, out, ORIGINAL, steps=1)  # it must not train on without end
    assert [path.name for path in out.glob("*.pth")] == ["checkpoint_step000000002.pth"]
    assert (out / "checkpoint_step000000002.pth").read_bytes() == before
    train(clips, tmp_path / "epochs", ORIGINAL, nepochs=2)  # 5 clips, batches of 4
    assert [path.name for path in (tmp_path / "epochs").glob("*.pth")] == ["checkpoint_step000000003.pth"]
