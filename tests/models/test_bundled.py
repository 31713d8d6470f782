"""The bundled networks: loading, size, and use by default."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from support.networks import golden_weights
from support.trainings import read, train, weights
from wav2lip_npu.cli import main
from wav2lip_npu.errors import CheckpointError
from wav2lip_npu.models import checkpoint
from wav2lip_npu.models.bundled import STARTER, weights_path
from wav2lip_npu.models.networks import SyncNet, Wav2Lip

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("generator", "syncnet")
MOST_BYTES = 27e6


def test_both_networks_are_bundled_and_small():
    files = [weights_path(STARTER, kind) for kind in KINDS]
    assert sum(file.stat().st_size for file in files) < MOST_BYTES
    for kind, file in zip(KINDS, files, strict=True):
        found = checkpoint.load(STARTER, kind)
        assert found.kind == kind and found.source == file
        assert found.more["licence"].startswith("for research and evaluation only")
        with safe_open(file, "pt") as content:
            kept = {content.get_tensor(key).dtype for key in content.keys() if "conv_block.0.weight" in key}  # noqa: SIM118
        assert kept == {torch.float16}


def test_mel_shift_of_the_generator():
    assert checkpoint.load(STARTER, "generator").mel_shift == -1


def test_other_kinds_are_not_bundled():
    with pytest.raises(CheckpointError, match="no bundled discriminator"):
        checkpoint.load(STARTER, "discriminator")


def test_file_called_starter_is_loaded_by_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint.save("starter", golden_weights(Wav2Lip(width=2)))
    assert checkpoint.load("./starter", "generator").width == 2
    assert checkpoint.load(STARTER, "generator").source == weights_path(STARTER, "generator")


@pytest.mark.parametrize("network", [Wav2Lip(width=2), SyncNet(width=2)], ids=KINDS)
def test_save_small_only_rounds(network, tmp_path):
    golden_weights(network)
    kind = "generator" if isinstance(network, Wav2Lip) else "syncnet"
    more = {"mel_shift": -1, "version": "9", "weights": network.state_dict()}
    checkpoint.save(tmp_path / "a.pth", network, {"global_step": 7, checkpoint.MORE: more})
    checkpoint.save_small(
        tmp_path / "a.safetensors", checkpoint.load(tmp_path / "a.pth", kind), {"about": "x"}
    )
    found = checkpoint.load(tmp_path / "a.safetensors", kind)
    assert found.more == {
        "kind": checkpoint.published_kind(kind),
        "width": 2,
        "about": "x",
        "version": "9",
        "mel_shift": -1,
    }
    for name, value in network.state_dict().items():
        assert found.weights[name].dtype == (torch.float16 if value.dim() > 1 else value.dtype)
        torch.testing.assert_close(found.weights[name].to(value.dtype), value, rtol=2**-10, atol=1e-6)
    assert found.network().state_dict()[next(iter(network.state_dict()))].dtype == torch.float32


def test_metadata_must_be_json(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "a.safetensors", {checkpoint.MORE: "{"})
    with pytest.raises(CheckpointError, match=r"a.safetensors is damaged"):
        checkpoint.load(tmp_path / "a.safetensors", "generator")


def test_dub_uses_and_reports_the_starter(face_video, speech, tmp_path, caplog):
    report = tmp_path / "report.json"
    words = [
        "dub",
        "--face",
        face_video,
        "--audio",
        speech,
        "--outfile",
        tmp_path / "a.mp4",
        "--report",
        report,
    ]
    assert main.main([str(word) for word in words]) == 0
    found = json.loads(report.read_text())
    assert found["checkpoint"] == str(weights_path(STARTER, "generator"))
    assert found["checkpoint_sha256"] in caplog.text
    assert "the small bundled network" in caplog.text


@pytest.mark.slow
def test_training_starts_from_the_starter_then_resumes(clips, tmp_path, caplog):
    flags = {
        "checkpoint_path": STARTER,
        "syncnet_checkpoint_path": STARTER,
        "eval_interval": 100,
        "width": None,
    }
    out = train(
        clips,
        tmp_path / "out",
        ["train", "--batch_size", 2, "--eval_batches", 1, "--learning_rate", 1e-12],
        steps=2,
        **flags,
    )
    found = weights(out / "checkpoint_step000000002.pth")
    first = checkpoint.load(STARTER, "generator")
    name = "output_block.1.weight"
    np.testing.assert_allclose(found[name], first.weights[name].float(), atol=1e-6)
    assert read(out / "checkpoint_step000000002.pth")[checkpoint.MORE]["width"] == first.width
    train(clips, out, ["train", "--batch_size", 2, "--eval_batches", 1], steps=3, **flags)
    assert "resuming from step 2 of" in caplog.text


def test_wheel_contains_the_networks_and_the_page(tmp_path):
    from hatchling.builders.wheel import WheelBuilder

    wheel = next(WheelBuilder(str(ROOT)).build(directory=str(tmp_path)))
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"wav2lip_npu/weights/{kind}.safetensors" for kind in KINDS} <= set(names)
    page = {f"wav2lip_npu/serve/page/{path.name}" for path in (ROOT / "wav2lip_npu/serve/page").iterdir()}
    assert page and page <= set(names)
    assert Path(wheel).stat().st_size < MOST_BYTES + 1e6
