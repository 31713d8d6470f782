"""Flags of the training commands, and errors before anything is written."""

from __future__ import annotations

import dataclasses
import os
from typing import get_type_hints

import pytest

from support.trainings import GENERATOR, ORIGINAL, SYNCNET, command, lines, read, start, train
from wav2lip_npu.cli import main
from wav2lip_npu.cli.train import TrainCommand, TrainSyncnetCommand
from wav2lip_npu.errors import UsageError
from wav2lip_npu.training.options import TrainOptions

BASE = ["--data_root", "d", "--checkpoint_dir", "c"]
WITH_SYNCNET = [*BASE, "--syncnet_checkpoint_path", "s"]


def names(options: type) -> set[str]:
    found: set[str] = set()
    for name, kind in get_type_hints(options).items():
        found |= names(kind) if dataclasses.is_dataclass(kind) else {name}
    return found


SHARED = (
    "data_root checkpoint_dir checkpoint_path filelists weights_only no_face_cache device "
    "batch_size learning_rate nepochs steps checkpoint_interval eval_interval log_interval num_workers data_on compile "
    "save_optimizer_state keep patience seed warmup_steps accumulate clip_grad_norm average amp loss_scale "
    "sync_batchnorm width balance_speakers weight_decay cosine_steps"
)


SYNCNET_AUGMENT = "grey hide_patch hide_band mel_noise"
GENERATOR_AUGMENT = "reference_mouth_warp reference_paste silence"
AUGMENT = "flip stretch shift turn bend colour gamma blur noise jpeg formants loudness tilt untouched"


def test_every_flag_is_known():
    """A new flag needs an entry here and in the docs."""
    assert names(TrainSyncnetCommand) == set(
        f"{SHARED} {AUGMENT} {SYNCNET_AUGMENT} recipe same_clip eval_clips".split()
    )
    assert names(TrainCommand) == set(
        f"{SHARED} {AUGMENT} {GENERATOR_AUGMENT} face_size alexnet lpips lpips_weight syncnet_checkpoint_path disc_checkpoint_path syncnet_wt sync_gate sync_weight disc_wt "
        "disc_initial_learning_rate expert_bn eval_batches reference_distance mouth_weight "
        "sync_floor sync_from sync_augmented patch_disc_wt disc_from ramp_steps gradient_weight motion_weight".split()
    )


@pytest.fixture
def parsed(monkeypatch):
    """Parse a command line."""
    seen: list[object] = []
    for options in (TrainCommand, TrainSyncnetCommand):
        monkeypatch.setattr(options, "run", lambda self: seen.append(self))

    def parse(*words: object):
        assert main.main([str(word) for word in words]) == 0
        return seen[-1]

    return parse


def test_defaults_match_the_original(parsed):
    syncnet, generator = parsed("train_syncnet", *BASE).train, parsed("train", *WITH_SYNCNET)
    options, taught = generator.train, generator.generator
    assert (syncnet.batch_size, syncnet.learning_rate) == (64, 1e-4)
    assert (syncnet.checkpoint_interval, syncnet.eval_interval) == (10_000, 10_000)
    assert (options.batch_size, options.learning_rate, options.nepochs) == (16, 1e-4, 200000000000000000)
    assert (options.checkpoint_interval, options.eval_interval, options.num_workers) == (3000, 3000, 16)
    assert options.save_optimizer_state is True
    assert (taught.syncnet_wt, taught.disc_wt, taught.disc_initial_learning_rate) == (0.0, 0.0, 1e-4)


def test_names_of_the_original_hparams(parsed):
    syncnet = parsed(
        "train_syncnet", *BASE, "--syncnet_batch_size", 32, "--syncnet_lr", 1e-3,
        "--syncnet_eval_interval", 5, "--syncnet_checkpoint_interval", 6,
    ).train  # fmt: skip
    assert (syncnet.batch_size, syncnet.learning_rate) == (32, 1e-3)
    assert (syncnet.eval_interval, syncnet.checkpoint_interval) == (5, 6)
    generator = parsed("train", *WITH_SYNCNET, "--initial_learning_rate", 2e-4, "--syncnet_wt", 0.03)
    assert generator.train.learning_rate == 2e-4
    assert generator.generator.syncnet_wt == 0.03
    again = parsed(
        "train", "--disc_wt", "0.07", *WITH_SYNCNET, "--disc_wt", "0.1"
    )  # like hq_wav2lip_train.py
    assert again.generator.disc_wt == 0.1


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        ([], True),
        (["--save_optimizer_state"], True),
        (["--save_optimizer_state", "True"], True),
        (["--save_optimizer_state", "False"], False),
        (["--save_optimizer_state=false"], False),
        (["--save-optimizer-state", "0"], False),
        (["--no_save_optimizer_state"], False),
    ],
)
def test_switches_can_be_turned_off(parsed, words, kept):
    found = parsed("train", *WITH_SYNCNET, *words, "--weights_only", "--no_face_cache", "False").train
    assert found.save_optimizer_state is kept


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ({"batch_size": 0}, "--batch_size 0"),
        ({"steps": 0}, "--steps 0"),
        ({"keep": 0}, "--keep 0"),
        ({"learning_rate": 0.0}, "--learning_rate 0"),
        ({"learning_rate": float("nan")}, "--learning_rate nan"),
        ({"clip_grad_norm": -1.0}, "--clip_grad_norm -1"),
        ({"average": 1.0}, "--average 1"),
        ({"width": 3}, "--width 3"),
        ({"amp": "fp8"}, "--amp 'fp8'"),
        ({"seed": 2**63}, "--seed"),
    ],
)
def test_options_out_of_range(flags, text):
    with pytest.raises(UsageError, match=text):
        TrainOptions(**flags)


@pytest.mark.parametrize(
    ("words", "flag", "choices"),
    [
        (["train", *WITH_SYNCNET, "--amp", "fp8"], "--amp", "'off', 'bf16', 'fp16'"),
        (["train", *WITH_SYNCNET, "--expert_bn", "both"], "--expert_bn", "'eval', 'batch'"),
        (["train_syncnet", *BASE, "--recipe", "best"], "--recipe", "'default', 'original'"),
    ],
)
def test_unknown_choice_lists_the_choices(words, flag, choices, capsys):
    assert main.main(words) == 2
    message = capsys.readouterr().err
    assert flag in message and choices in message


@pytest.mark.parametrize("name", ["img_size", "hop_size", "fmax", "preemphasize", "use_lws"])
def test_fixed_settings_are_not_flags(name, capsys):
    assert main.main(["train", *WITH_SYNCNET, f"--{name}", "96"]) == 2
    assert name in capsys.readouterr().err


@pytest.fixture
def refused(clips, tmp_path, capsys):
    """Check that training fails with a one-line error before it writes a checkpoint."""

    def refuse(words, *parts, out=None, **flags) -> None:
        capsys.readouterr()
        assert main.main(command(clips, out or tmp_path / "out", words, **flags)) == 2
        output = capsys.readouterr().err.splitlines()
        assert [line for line in output if line.startswith("wav2lip-npu: ")] == output[-1:]
        for part in parts:
            assert part in output[-1], output[-1]
        assert not list(tmp_path.rglob("*.pth"))

    return refuse


def test_bad_paths(refused, tmp_path):
    refused(ORIGINAL, "none is not a folder", data_root=tmp_path / "none")
    refused(ORIGINAL, "no file list", "train.txt", filelists=tmp_path)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/train.txt").write_text("x/y\n")
    refused(ORIGINAL, "no clip of", "Check --data_root", filelists=tmp_path / "lists")
    refused(GENERATOR, "none.pth: No such file", syncnet_checkpoint_path=tmp_path / "none.pth")
    (tmp_path / "file").write_text("")
    # Raised before the clips are read, which may take long.
    refused(ORIGINAL, "cannot write", "--checkpoint_dir", out=tmp_path / "file" / "out", data_root="/none")
    refused(ORIGINAL, "cannot write", out="/proc/none/out")
    if os.getuid():
        (tmp_path / "locked").mkdir(mode=0o500)
        refused(ORIGINAL, "cannot write", "Permission denied", out=tmp_path / "locked")


def test_bad_values(refused, tmp_path):
    refused(ORIGINAL, "unknown device 'tpu'", device="tpu")
    refused(ORIGINAL, "--sync_batchnorm needs", sync_batchnorm="True")
    refused(ORIGINAL, "--loss_scale 'much'", amp="fp16", loss_scale="much")
    refused(GENERATOR, "--disc_checkpoint_path has no effect without --disc_wt", disc_checkpoint_path="x")
    refused(ORIGINAL, "--same_clip has no effect with --recipe original", same_clip=0.5)
    refused(SYNCNET, "--same_clip 1.5", same_clip=1.5)
    refused(SYNCNET, "--flip 2", flip=2)
    refused(SYNCNET, "--grey 1.5", grey=1.5)
    refused(SYNCNET, "--weight_decay 2", weight_decay=2)
    refused(GENERATOR, "--silence -1", silence=-1)
    refused(GENERATOR, "--mouth_weight 0", mouth_weight=0)
    refused(GENERATOR, "--sync_floor 1.2", sync_floor=1.2)
    refused(GENERATOR, "--reference_distance -1", reference_distance=-1)
    refused(GENERATOR, "--batch_size 1 --expert_bn batch", batch_size=1, expert_bn="batch")


@pytest.mark.slow
def test_command_line_of_the_original(clips, tmp_path):
    """Run the script of the original with a nested checkpoint folder."""
    words = command(clips, tmp_path / "deep" / "out", ["train"], batch_size=2, eval_batches=1, steps=1)
    child = start(words[1:], "hq_wav2lip_train.py")
    output, _ = child.communicate(timeout=100)
    assert child.returncode == 0, output
    found = sorted(path.name for path in (tmp_path / "deep" / "out").glob("*.pth"))
    assert found == ["checkpoint_step000000001.pth", "disc_checkpoint_step000000001.pth"]
    log = output.splitlines()
    assert log[0].startswith("wav2lip-npu ")
    assert log[0].endswith("rank 0 of 1")
    assert "disc_wt=0.07" in log[1]
    assert "data_root='" in log[1]
    assert log[-1] == f"checkpoints, curves and samples: {tmp_path / 'deep' / 'out'}"
    assert read(tmp_path / "deep" / "out" / found[0])["global_step"] == 1


def test_single_clip_is_enough(clips, tmp_path, caplog):
    """This is for fine-tuning on one video, for which preprocess does not write val.txt."""
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "train.txt").write_text("c0\n")
    out = train(clips, tmp_path / "out", GENERATOR, filelists=tmp_path / "lists", steps=2, eval_interval=2)
    assert "held-out figures are computed on the training clips" in caplog.text
    assert [line["step"] for line in lines(out, "held_out")] == [2]
