"""Checkpoints: the format of the original, resuming from its checkpoints, and errors."""

from __future__ import annotations

import json
import os
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from support.marks import slow, slow_on_npu
from support.networks import golden_weights
from support.trainings import (
    GENERATOR,
    ORIGINAL,
    SYNCNET,
    WITH_DISC,
    assert_same,
    command,
    lines,
    read,
    train,
)
from wav2lip_npu.cli import main
from wav2lip_npu.devices import mixed_precision
from wav2lip_npu.errors import CheckpointMismatchError
from wav2lip_npu.models import checkpoint
from wav2lip_npu.models.networks import NETWORKS, SyncNet, Wav2Lip
from wav2lip_npu.storage.locks import lock_folder
from wav2lip_npu.training.checkpoints import path_of

GOLDEN = Path(__file__).parents[1] / "resources"
NAMES = {"generator": "wav2lip", "syncnet": "syncnet", "discriminator": "disc"}


def saved(out: Path, step: int, kind: str = "syncnet") -> dict[str, Any]:
    return read(path_of(out, kind, step))


def original(kind: str, *, width: int = 2, steps: int = 3, prefix: str = "") -> dict[str, Any]:
    """Return a checkpoint as the original writes it, after some steps of Adam on an arbitrary loss."""
    network = golden_weights(NETWORKS[kind](width)).train()
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=1e-4)
    for _ in range(steps):
        optimizer.zero_grad()
        sum((p * torch.randn_like(p)).sum() for p in network.parameters()).backward()
        optimizer.step()
    return {
        "state_dict": {prefix + key: value for key, value in network.state_dict().items()},
        "optimizer": optimizer.state_dict(),
        "global_step": 1234,
        "global_epoch": 7,
    }


def load_as_original(kind: str, content: dict[str, Any], learning_rate: float, betas=(0.9, 0.999)) -> Any:
    """Load a checkpoint as the original does; return network and optimizer."""
    network = NETWORKS[kind](2)
    network.load_state_dict({k.replace("module.", ""): v for k, v in content["state_dict"].items()})
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate, betas=betas)
    if content["optimizer"] is not None:
        optimizer.load_state_dict(content["optimizer"])
    return network, optimizer


@pytest.mark.parametrize("kind", ["syncnet", pytest.param("discriminator", marks=pytest.mark.slow)])
def test_original_loads_full_size_checkpoints(clips, tmp_path, kind):
    words = ORIGINAL if kind == "syncnet" else WITH_DISC
    few = {"eval_clips": 1} if kind == "syncnet" else {}
    out = train(clips, tmp_path, [*words, "--batch_size", 2], steps=1, width=32, **few)
    for name in {"syncnet": ["syncnet"], "discriminator": ["generator", "discriminator"]}[kind]:
        content = saved(out, 1, name)
        golden = json.loads((GOLDEN / f"state_dict_{NAMES[name]}.json").read_text())
        found = {key: list(value.shape) for key, value in content["state_dict"].items()}
        assert list(found.items()) == list(golden.items())
        network = NETWORKS[name](32)
        network.load_state_dict(content["state_dict"], strict=True)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
        optimizer.load_state_dict(content["optimizer"])
        optimizer.step()
        assert (content["global_step"], content["global_epoch"]) == (1, 0)


@pytest.mark.any_device
def test_content_of_a_checkpoint(clips, tmp_path):
    out = train(clips, tmp_path, WITH_DISC, steps=4, checkpoint_interval=2, eval_interval=3)
    names = {"checkpoint_step000000002.pth", "disc_checkpoint_step000000002.pth"}
    names |= {name.replace("2.pth", "4.pth") for name in names}
    assert {path.name for path in out.glob("*.pth")} == names
    for kind in ("generator", "discriminator"):
        content = saved(out, 4, kind)
        assert {"state_dict", "optimizer", "global_step", "global_epoch"} < set(content)
        assert (content["global_step"], content["global_epoch"]) == (4, 1)  # 8 samples of 5 clips
        count = len(list(NETWORKS[kind](2).parameters()))
        state = content["optimizer"]
        assert list(state["state"]) == list(range(count)) == state["param_groups"][0]["params"]
        assert state["param_groups"][0]["betas"] == (0.5, 0.999)
        for (key, parameter), moments in zip(
            NETWORKS[kind](2).named_parameters(), state["state"].values(), strict=True
        ):
            assert moments["exp_avg"].shape == content["state_dict"][key].shape == parameter.shape
            assert moments["step"] == 4
        more = content["wav2lip_npu"]
        assert (more["width"], more["mel"]["hop"], more["position"]) == (2, 200, 8)
        assert more["kind"] == checkpoint.published_kind(kind)
        assert more["best_step"] == 3
        assert more["extras"] == {"schedule": {"passed": False, "weight": 0.0}}
        assert more["mel_shift"] == -1
        assert all_on_cpu(content)


def all_on_cpu(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(all_on_cpu, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(all_on_cpu, value))
    return not isinstance(value, torch.Tensor) or value.device.type == "cpu"


def old_steps(content: dict[str, Any]) -> dict[str, Any]:
    """Rewrite step counts and parameter groups as PyTorch before 1.12 saved them."""
    for state in content["optimizer"]["state"].values():
        state["step"] = int(state["step"])
    (group,) = content["optimizer"]["param_groups"]
    kept = ("lr", "betas", "eps", "weight_decay", "amsgrad", "params")
    content["optimizer"]["param_groups"] = [{key: group[key] for key in kept}]
    return content


CHANGES = {
    "plain": lambda content: content,
    "old steps": old_steps,
    "no optimizer": lambda content: {**content, "optimizer": None},
}


@pytest.mark.any_device
@pytest.mark.parametrize(
    ("kind", "change"),
    [
        slow_on_npu("syncnet", "plain"),
        slow_on_npu("syncnet", "no optimizer"),
        slow("syncnet", "old steps"),
        slow("generator", "plain"),
        slow("generator", "no optimizer"),
        ("generator", "old steps"),
    ],
)
def test_training_resumes_from_checkpoints_of_the_original(clips, tmp_path, kind, change, monkeypatch):
    """The next step is that of a plain Adam with the original's state."""
    content = CHANGES[change](original(kind, prefix="module." if change == "plain" else ""))
    torch.save(content, tmp_path / "original.pth")
    gradients = []
    real = torch.optim.Adam.step

    def step(self, *arguments):
        gradients.append([p.grad.clone().cpu() for p in self.param_groups[0]["params"]])
        return real(self, *arguments)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    words = ORIGINAL if kind == "syncnet" else GENERATOR
    flags = {"checkpoint_path": tmp_path / "original.pth", "warmup_steps": 0}
    out = train(clips, tmp_path, words, steps=1235, **flags)
    monkeypatch.undo()
    ours = saved(out, 1235, kind)
    assert (ours["global_step"], ours["global_epoch"]) == (1235, 7)
    network, optimizer = load_as_original(kind, content, 1e-4)
    for parameter, gradient in zip(network.parameters(), gradients[0], strict=True):
        parameter.grad = gradient
    optimizer.step()
    for name, value in network.named_parameters():
        torch.testing.assert_close(ours["state_dict"][name], value.detach(), rtol=1e-6, atol=1e-8)
    for own, expected in zip(
        ours["optimizer"]["state"].values(), optimizer.state_dict()["state"].values(), strict=True
    ):
        assert float(own["step"]) == float(expected["step"]) == (1 if content["optimizer"] is None else 4)
        torch.testing.assert_close(own["exp_avg"], expected["exp_avg"])


def test_bare_weights_start_at_step_0(clips, tmp_path):
    torch.save(original("syncnet")["state_dict"], tmp_path / "bare.pth")
    out = train(clips, tmp_path, ORIGINAL, steps=1, checkpoint_path=tmp_path / "bare.pth")
    assert saved(out, 1)["global_step"] == 1


@pytest.mark.any_device
def test_weights_only_ignores_optimizer_and_step(clips, tmp_path):
    first = train(clips, tmp_path / "first", SYNCNET, steps=2)
    out = train(
        clips,
        tmp_path / "second",
        [*SYNCNET, "--weights_only"],
        steps=1,
        checkpoint_path=path_of(first, "syncnet", 2),
        learning_rate=1e-12,
    )
    content = saved(out, 1)
    assert content["optimizer"]["state"][0]["step"] == 1
    for name, value in saved(first, 2)["state_dict"].items():
        if not name.endswith(("mean", "var", "tracked")):
            torch.testing.assert_close(content["state_dict"][name], value, rtol=0, atol=1e-8)


def refused(clips: Path, out: Path, words: list[Any], capsys: Any, **flags: Any) -> str:
    """Return the message of a training that cannot start."""
    capsys.readouterr()
    before = sorted(out.glob("*")) if out.exists() else []
    assert main.main(command(clips, out, words, steps=1, **flags)) == 2
    (message,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("wav2lip-npu: ")]
    assert sorted(path for path in out.glob("*") if path.suffix == ".pth") == [
        path for path in before if path.suffix == ".pth"
    ]
    return message


def damaged(content: dict[str, Any], how: str) -> dict[str, Any]:
    state = content["optimizer"]["state"]
    if how == "shape":
        state[3]["exp_avg"] = torch.zeros(3, 3)
    elif how == "sgd":
        content["optimizer"]["state"] = {0: {"momentum_buffer": torch.zeros(1)}}
    elif how == "groups":
        content["optimizer"]["param_groups"] *= 2
    elif how == "words":
        content["optimizer"] = "adam"
    elif how == "short":
        content["optimizer"]["param_groups"][0]["params"].pop()
    elif how == "step":
        content["global_step"] = "many"
    elif how == "nan":
        state[3]["exp_avg"][0] = torch.nan
    elif how == "negative":
        state[3]["exp_avg_sq"] -= 1
    return content


@pytest.mark.parametrize(
    "how", ["shape", "sgd", slow("groups"), slow("words"), slow("short"), "step", "nan", slow("negative")]
)
def test_optimizer_state_that_does_not_fit(clips, tmp_path, capsys, how):
    """A6: damaged moments are reported before the first step, not as NaN after it."""
    torch.save(damaged(original("syncnet"), how), tmp_path / "odd.pth")
    message = refused(clips, tmp_path / "out", ORIGINAL, capsys, checkpoint_path=tmp_path / "odd.pth")
    assert "odd.pth: its training state does not fit" in message
    assert "--weights_only" in message


def test_checkpoints_of_another_network(clips, tmp_path, capsys):
    syncnet, generator = tmp_path / "e.pth", tmp_path / "g.pth"
    checkpoint.save(syncnet, SyncNet(2))
    checkpoint.save(generator, Wav2Lip(2))
    out = tmp_path / "out"
    assert "e.pth is a SyncNet, not a Wav2Lip generator" in refused(
        clips, out, GENERATOR, capsys, checkpoint_path=syncnet
    )
    assert "g.pth is a Wav2Lip generator" in refused(
        clips, out, GENERATOR, capsys, syncnet_checkpoint_path=generator
    )
    assert "e.pth is a SyncNet" in refused(clips, out, WITH_DISC, capsys, disc_checkpoint_path=syncnet)
    assert "none.pth: No such file" in refused(
        clips, out, ORIGINAL, capsys, checkpoint_path=tmp_path / "none.pth"
    )
    assert not out.exists()
    out.mkdir()
    # Checkpoints of another training run are not treated as damaged, and nothing is written next to them.
    shutil.copy(syncnet, out / "checkpoint_step000000001.pth")
    message = refused(clips, out, GENERATOR, capsys)
    assert "is a SyncNet" in message
    assert "another --checkpoint_dir" in message


def test_other_mel_settings_are_refused(clips, tmp_path, capsys):
    out = train(clips, tmp_path / "out", GENERATOR, steps=1)
    path = path_of(out, "generator", 1)
    content = read(path)
    content["wav2lip_npu"]["mel"]["fmax"] = 8000.0
    torch.save(content, path)
    with pytest.raises(CheckpointMismatchError, match=r"fmax=8000.0, not 7600.0"):
        checkpoint.load(path, "generator")
    assert "fmax=8000.0, not 7600.0" in refused(clips, out, GENERATOR, capsys)


def test_keep(clips, tmp_path):
    """The newest, the best, and files of others stay."""
    out = tmp_path / "out"
    out.mkdir()
    torch.save({**original("syncnet"), "global_step": 1}, out / "checkpoint_step000000001.pth")
    torch.save(original("syncnet"), out / "checkpoint_step000000099.pth")
    train(
        clips,
        out,
        ORIGINAL,
        steps=8,
        keep=2,
        checkpoint_interval=1,
        eval_interval=3,
        log_interval=1,
        checkpoint_path=out / "checkpoint_step000000001.pth",
    )
    best = saved(out, 8)["wav2lip_npu"]["best_step"]
    steps = sorted(int(path.stem[-9:]) for path in out.glob("*.pth"))
    assert steps == sorted({1, 7, 8, 99, best})
    assert best == min(lines(out, "held_out"), key=lambda row: row["bce"])["step"]


def test_finished_and_skipped_steps_are_reported(clips, tmp_path, caplog):
    train(clips, tmp_path, ORIGINAL, steps=2, checkpoint_interval=1)
    assert "nothing to do" not in caplog.text
    train(clips, tmp_path, ORIGINAL, steps=2)
    assert "nothing to do: already at step 2" in caplog.text
    assert "overwritten" not in caplog.text
    train(clips, tmp_path, ORIGINAL, steps=2, checkpoint_path=path_of(tmp_path, "syncnet", 1))
    assert "has a checkpoint of step 2, which may be overwritten" in caplog.text
    caplog.clear()
    train(clips, tmp_path, [*ORIGINAL, "--weights_only"], steps=1)
    assert "has a checkpoint of step 2" in caplog.text
    assert "--weights_only" in caplog.text


def test_two_trainings_cannot_share_a_folder(clips, tmp_path, capsys):
    with lock_folder(tmp_path):
        assert main.main(command(clips, tmp_path, ORIGINAL, steps=1)) == 2
    assert f"another training is writing to {tmp_path}" in capsys.readouterr().err
    assert not path_of(tmp_path, "syncnet", 1).exists()
    train(clips, tmp_path, ORIGINAL, steps=1)


def test_checkpoints_without_optimizer_state(clips, tmp_path):
    out = train(clips, tmp_path, [*ORIGINAL, "--save_optimizer_state", "False"], steps=1)
    assert saved(out, 1)["optimizer"] is None
    train(clips, tmp_path, [*ORIGINAL, "--no_save_optimizer_state"], steps=2)
    assert saved(out, 2)["global_step"] == 2


@pytest.mark.slow
def test_dub_uses_the_mel_shift_of_the_training(
    clips, tmp_path, face_video, speech, monkeypatch, tiny_checkpoint
):
    from wav2lip_npu.dubbing import inference, pipeline
    from wav2lip_npu.mel import MelReader

    out = train(clips, tmp_path / "out", GENERATOR, steps=1)
    own = inference.load_models(path_of(out, "generator", 1), device="cpu")
    original = inference.load_models(tiny_checkpoint, device="cpu")
    assert (own.mel_shift, original.mel_shift) == (-1, 0)
    shifts = set()
    real = MelReader.window

    def window(self, index, fps, shift):
        shifts.add(shift)
        return real(self, index, fps, shift)

    monkeypatch.setattr(MelReader, "window", window)
    for models, shift, expected in ((own, None, -1), (own, 0, 0), (original, None, 0), (original, -2, -2)):
        shifts.clear()
        out_file = tmp_path / "out.mp4"
        pipeline.dub(face_video, speech, out_file, models=models, mel_shift=shift, box=(40, 200, 60, 220))
        assert shifts == {expected}


def test_full_disk_is_reported(clips, tmp_path, capsys, monkeypatch):
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "checkpoint_step000000001.pth ([Errno 28] No space left" in refused(
        clips, tmp_path / "out", ORIGINAL, capsys
    )
    assert not list((tmp_path / "out").glob("*.part"))


def test_disk_that_fills_up_during_a_checkpoint_is_reported(clips, tmp_path, capsys):
    """PyTorch itself then reports a position in the file."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, limits[1]))
    try:
        text = refused(clips, tmp_path / "out", ORIGINAL, capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "checkpoint_step000000001.pth ([Errno 27] File too large)" in text


@pytest.mark.any_device
def test_optimizer_state_of_any_form_of_adam_is_restored(monkeypatch, clips, tmp_path):
    """A checkpoint from a GPU (fused) resumes here, and is saved for any device."""
    monkeypatch.setattr(mixed_precision, "adam_options", lambda where: {"fused": True})
    out = train(clips, tmp_path, ORIGINAL, steps=2)
    group = saved(out, 2)["optimizer"]["param_groups"][0]
    assert (group["fused"], group["foreach"]) == (None, None)
    monkeypatch.setattr(mixed_precision, "adam_options", lambda where: {"foreach": False})
    train(clips, tmp_path, ORIGINAL, steps=3)
    assert saved(out, 3)["optimizer"]["state"][0]["step"] == 3
    monkeypatch.setattr(mixed_precision, "adam_options", lambda where: {"fused": True})
    train(clips, tmp_path, ORIGINAL, steps=4)
    assert_same(saved(out, 4)["optimizer"]["state"][0]["step"], torch.tensor(4.0))
