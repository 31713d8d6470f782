"""Recipes: the bundled networks are trained and packed, and the demo's camera keeps the face in view."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import wav2lip_npu
from support.clip_folders import write_clip
from support.trainings import GENERATOR, SYNCNET, train
from wav2lip_npu.cli import main
from wav2lip_npu.cli.train import TrainCommand, TrainSyncnetCommand
from wav2lip_npu.export import manifest
from wav2lip_npu.models import checkpoint
from wav2lip_npu.models.bundled import STARTER, weights_path
from wav2lip_npu.models.networks import Wav2Lip
from wav2lip_npu.options import fields_of
from wav2lip_npu.training.resumed import load_syncnet

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
PEOPLE = [f"speaker{number}/{clip}" for number in range(40) for clip in "ab"]


@pytest.fixture
def starter(monkeypatch):
    """A function that imports a file of recipes/starter."""
    monkeypatch.syspath_prepend(str(RECIPES / "starter"))

    def load(name: str) -> ModuleType:
        for other in ("lists", "pack", "state"):
            monkeypatch.delitem(sys.modules, other, raising=False)
        return importlib.import_module(name)

    return load


def test_held_out_speakers_are_not_trained_on(starter):
    names = [*PEOPLE, "man_844/1", "clips/vox_00104", "clips/woman_30s_silent_480", "clips/other"]
    train_names, val = starter("lists").split(names)
    assert set(train_names) | set(val) == set(names) - {"clips/woman_30s_silent_480"}
    assert not set(train_names) & set(val)
    assert {"man_844/1", "clips/vox_00104"} < set(val)
    speakers = [{name.split("/")[0] for name in part if name in PEOPLE} for part in (train_names, val)]
    assert not speakers[0] & speakers[1] and 2 <= len(speakers[1]) <= 6
    alone = [f"videos/{number}" for number in range(20)]
    train_names, val = starter("lists").split(alone)
    assert len(val) == 2 and len(train_names) == 18


@pytest.mark.parametrize(("name", "command"), [("syncnet", TrainSyncnetCommand), ("generator", TrainCommand)])
def test_flags_are_options_of_the_training(monkeypatch, name, command):
    seen: list[object] = []
    monkeypatch.setattr(command, "run", lambda self: seen.append(self))
    words = (RECIPES / "starter" / f"{name}.flags").read_text().split()
    kind = "train" if name == "generator" else "train_syncnet"
    assert main.main([kind, "--data_root", "x", "--checkpoint_dir", "y", *words, "--width", "4"]) == 0
    (options,) = seen
    assert options.train.width == 4 and options.train.balance_speakers


def test_amplified_audio_moves_embeddings_away_from_silence(starter):
    network = Wav2Lip(width=2).eval()
    mels = torch.rand(4, 1, 80, 16) * 8 - 4
    silence = torch.full((1, 1, 80, 16), -4.0)
    with torch.no_grad():
        before, quiet = network.audio_encoder(mels), network.audio_encoder(silence)
        starter("pack").amplify_audio(network, 1.5)
        after = network.audio_encoder(mels)
        torch.testing.assert_close(network.audio_encoder(silence), quiet)
    torch.testing.assert_close(after, (quiet + 1.5 * (before - quiet)).clamp(min=0))


def test_packed_networks_and_their_state(starter, clips, tmp_path):
    work = tmp_path / "work"
    (work / "lists").mkdir(parents=True)
    (work / "lists" / "val.txt").write_text((clips / "lists" / "val.txt").read_text())
    for name, words in (("syncnet", SYNCNET), ("generator", GENERATOR)):
        train(clips, work / name, words, steps=2, eval_interval=1, checkpoint_interval=1)
    pack = starter("pack")
    assert pack.main(work) == 0
    state = json.loads((work / "weights" / "state.json").read_text())
    assert state["held_out_clips"] == 2
    assert (state["syncnet"]["steps"], state["syncnet"]["windows"]) == (2, 32)
    assert (state["generator"]["steps"], state["generator"]["windows"]) == (2, 4)
    assert 0 <= state["syncnet"]["best_held_out"]["auc"] <= 1
    packed = checkpoint.load(work / "weights" / "generator.safetensors", "generator")
    assert packed.mel_shift == -1 and packed.more["steps"] == 2
    assert "research and evaluation only" in packed.more["licence"]
    plain = pack.newest(work / "generator", "generator")
    bias = "audio_encoder.12.conv_block.1.bias"
    assert not torch.equal(packed.weights[bias], plain.weights[bias])


def test_run_that_continues_adds_to_the_bundled_state(starter, clips, tmp_path, caplog):
    words = ["--checkpoint_path", "starter", "--eval_clips", "1", "--amp", "bf16"]
    out = train(clips, tmp_path / "syncnet", [*SYNCNET, *words], steps=1, width=None, learning_rate=0.5)
    load_syncnet(STARTER)
    assert caplog.text.count("research and evaluation only") == 2
    state = starter("state")
    bundled = json.loads(state.BUNDLED.read_text())
    assert state.newest(out, "syncnet").more["continued"]
    assert state.best(out) == weights_path(STARTER, "syncnet"), "no evaluation was better than the start"
    loaded = checkpoint.load(STARTER, "syncnet")
    assert loaded.more["windows"] == bundled["syncnet"]["windows"]
    assert loaded.more["steps"] == bundled["syncnet"]["steps"]


@pytest.mark.slow
def test_recipe_trains_packs_and_measures(tmp_path):
    for seed in range(4):
        write_clip(tmp_path / "clips" / f"speaker{seed}" / "1", 60, seed=seed)
    flags = {"DEVICE": "cpu", "BATCH": "2", "SHARE": "1e-6", "AMP": "off", "MORE": "--width 2"}
    done = subprocess.run(
        [RECIPES / "starter" / "run.sh", tmp_path / "clips", tmp_path / "work"],
        capture_output=True,
        text=True,
        env={**os.environ, **flags, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for kind in ("generator", "syncnet"):
        assert checkpoint.load(tmp_path / "work" / "weights" / f"{kind}.safetensors", kind).width == 2
    assert "| SyncNet: BCE |" in (tmp_path / "work" / "figures.md").read_text()
    assert "generator" in json.loads((tmp_path / "work" / "figures.json").read_text())


def test_demo_camera_keeps_the_face_in_view():
    sys.path.insert(0, str(RECIPES))
    try:
        import demo
    finally:
        sys.path.remove(str(RECIPES))
    photo = np.full((512, 512, 3), 90, np.uint8)
    x, y = demo.FACE
    photo[y - 45 : y + 45, x - 40 : x + 40] = 250
    shots = list(demo.camera(photo, 50))
    assert {shot.shape for shot in shots} == {(demo.SIDE, demo.SIDE, 3)}
    for shot in shots:
        assert (shot[[0, -1]].max() < 200) and (shot[:, [0, -1]].max() < 200), "the face is cut"
        assert (shot > 200).all(axis=2).mean() > 0.05
    assert np.abs(shots[0].astype(int) - shots[20]).mean() > 3, "the camera stands still"


def test_triton_model_is_an_exported_generator():
    text = re.sub(r"#.*", "", (RECIPES / "triton" / "wav2lip" / "config.pbtxt").read_text())
    given = {
        part: {
            name: [int(size) for size in sizes.split(",")]
            for name, sizes in re.findall(r'name: "(\w+)".*?dims: \[([\d, ]+)\]', block)
        }
        for part, block in re.findall(r"^(input|output) \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    }
    wanted = manifest.INPUTS["generator"].items()
    assert given["input"] == {
        name: [96 if side == "size" else side for side in shape] for name, shape in wanted
    }
    assert given["output"] == {"picture": [3, 96, 96]} and manifest.OUTPUTS["generator"] == ["picture"]


@pytest.mark.parametrize("name", ["space/app.py", "ray_serve.py"])
def test_recipe_names_what_exists(name):
    """These recipes need packages that the tests do not have: check what they call in this package."""
    tree = ast.parse((RECIPES / name).read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    used = {
        ast.unparse(call.func): call for call in calls if ast.unparse(call.func).startswith("wav2lip_npu.")
    }
    assert {"wav2lip_npu.dub", "wav2lip_npu.load_models"} <= used.keys()
    assert all(hasattr(wav2lip_npu, function.partition(".")[2]) for function in used)
    known = {*inspect.signature(wav2lip_npu.dub).parameters, *dict(fields_of(wav2lip_npu.DubOptions()))}
    assert {word.arg for word in used["wav2lip_npu.dub"].keywords} <= known
