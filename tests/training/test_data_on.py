"""Training with the clips in device memory: exact resume, determinism, and the choice of the place."""

from __future__ import annotations

import pytest

from support.devices import DEVICE
from support.marks import slow
from support.trainings import (
    GENERATOR,
    ORIGINAL,
    SYNCNET,
    WITH_DISC,
    assert_same_checkpoints,
    command,
    read,
    train,
)
from wav2lip_npu.cli import main
from wav2lip_npu.data.face_reader import FaceReader
from wav2lip_npu.devices import device_memory

pytestmark = pytest.mark.any_device

AUGMENTATION = {"flip": 0.5, "turn": 5, "colour": 0.2, "blur": 0.5, "noise": 3, "jpeg": 0.5, "formants": 0.05}
RECIPE = {
    "recipe of SyncNet": (
        [*SYNCNET, "--balance_speakers"],
        {"grey": 0.5, "hide_patch": 0.3, "hide_band": 0.3, "mel_noise": 0.1, "weight_decay": 0.05,
         "cosine_steps": 5, "same_clip": 0.6, "accumulate": 2},
    ),
    "recipe of the generator": (
        [*GENERATOR, "--balance_speakers"],
        {**AUGMENTATION, "untouched": 0.4, "reference_mouth_warp": 1, "reference_paste": 0.35, "silence": 0.5,
         "gradient_weight": 0.5, "motion_weight": 0.5, "mouth_weight": 4, "sync_weight": 0.05, "sync_from": 1,
         "sync_augmented": 0.5, "sync_floor": 0.3, "patch_disc_wt": 0.3, "disc_from": 1, "ramp_steps": 4,
         "cosine_steps": 5, "clip_grad_norm": 1, "average": 0.9},
    ),
}  # fmt: skip
"""The options of recipes/starter. Losses begin before and after the first run ends."""
KINDS = {
    "original": (ORIGINAL, {"clip_grad_norm": 1, "grey": 0.5, "data_on": "device"}),
    "with_disc": (
        WITH_DISC,
        {**AUGMENTATION, "untouched": 0.3, "syncnet_wt": 0.1, "reference_distance": 3, "data_on": "device"},
    ),
    **{
        f"{name} on the {place}": (words, {**flags, "data_on": place})
        for name, (words, flags) in RECIPE.items()
        for place in ("device", "host")
    },
}
SLOW = {"original", *(kind for kind in KINDS if kind.endswith("host"))}
"""Samples on the host are in `test_resume.py` too, and those of SyncNet on the device in its recipe."""


@pytest.mark.parametrize("kind", [slow(kind) if kind in SLOW else kind for kind in KINDS])
def test_resumed_training_equals_an_uninterrupted_one(clips, tmp_path, kind):
    words, flags = KINDS[kind]
    flags = {"eval_interval": 2, **flags}
    once = train(clips, tmp_path / "once", words, steps=3, **flags)
    twice = train(clips, tmp_path / "twice", words, steps=2, **flags)
    train(clips, twice, words, steps=3, **flags)
    assert_same_checkpoints(once, twice, 3)
    more = read(once / "checkpoint_step000000003.pth")["wav2lip_npu"]
    assert more.get("data_on", "host") == flags["data_on"]
    assert more["position"] == 3 * flags.get("accumulate", 1) * (4 if kind == "original" else 2)


def test_files_are_read_once(clips, tmp_path, monkeypatch):
    read_by_clip: dict[str, int] = {}
    real = FaceReader.__call__

    def counted(self, clip, position, count=5):
        read_by_clip[clip.name] = read_by_clip.get(clip.name, 0) + 1
        return real(self, clip, position, count)

    monkeypatch.setattr(FaceReader, "__call__", counted)
    train(clips, tmp_path / "out", GENERATOR, steps=4, data_on="device", eval_interval=100, nepochs=9)
    assert {name: read_by_clip[name] for name in ("c0", "c1", "c2", "c3", "c4")} == dict.fromkeys(
        ("c0", "c1", "c2", "c3", "c4"), 1
    )


def test_auto_is_the_device_of_an_accelerator_with_enough_memory(
    clips, tmp_path, monkeypatch, caplog, capsys
):
    def place(name: str, **flags) -> str:
        out = train(clips, tmp_path / name, ORIGINAL, steps=1, data_on="auto", **flags)
        return read(out / "checkpoint_step000000001.pth")["wav2lip_npu"].get("data_on", "host")

    assert place("auto") == ("host" if DEVICE.type == "cpu" else "device")
    monkeypatch.setattr(device_memory, "memory", lambda device: (6_000_000, 8_000_000))
    assert place("small") == "host"
    words = command(clips, tmp_path / "asked", ORIGINAL, data_on="device", steps=1)
    assert main.main(words) == 2
    assert "--data_on host" in capsys.readouterr().err


def test_resumed_run_keeps_its_place(clips, tmp_path, caplog):
    out = train(clips, tmp_path / "out", ORIGINAL, steps=1, data_on="device")
    train(clips, out, ORIGINAL, steps=2, data_on="auto")
    assert read(out / "checkpoint_step000000002.pth")["wav2lip_npu"]["data_on"] == "device"
    assert "other random samples" not in caplog.text
    train(clips, out, ORIGINAL, steps=3, data_on="host")
    assert "other random samples" in caplog.text.replace("\n", " ")
    assert "data_on" not in read(out / "checkpoint_step000000003.pth")["wav2lip_npu"]
