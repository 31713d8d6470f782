"""Recipes: held-out clips are not in any training list, and the demo's camera keeps the face in view."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from support.clip_folders import write_clip
from wav2lip_npu.data.clip import mel_columns, read_clip
from wav2lip_npu.data.face_reader import FaceReader
from wav2lip_npu.data.file_lists import read_names
from wav2lip_npu.data.samples import MEL_SHIFT
from wav2lip_npu.models import checkpoint
from wav2lip_npu.models.networks import Wav2Lip

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
NETWORKS = ("syncnet", "judge", "generator")
SENTENCES = [f"grid/s1/s{number}" for number in range(200)]
PEOPLE = [
    *(f"clips/{name}" for name in ("man_512", "man_844", "vox_00104", "woman_elderly_524", "woman_512")),
    *(f"grid/others/{name}" for name in ("lbbc2a", "brbk7n")),
]
FOREIGN = ["clips/man_30fps_1080x1920", "clips/woman_30s_silent_480", "clips/lecturer_tiny_face_720"]


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    work = tmp_path_factory.mktemp("starter lists")
    for name in (*SENTENCES, *PEOPLE, *FOREIGN):
        (work / "clips" / name).mkdir(parents=True)
        (work / "clips" / name / "clip.json").touch()
    script = [sys.executable, RECIPES / "starter" / "lists.py", work / "clips", work / "lists"]
    subprocess.run(
        script, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(RECIPES.parent)}
    )
    return work / "lists"


def test_held_out_clips_are_not_trained_on(lists):
    test, people = (set(read_names(lists / f"{name}.txt")) for name in ("test", "people"))
    assert 10 <= len(test) <= 32 and test <= set(SENTENCES)
    assert people == {"clips/man_844", "clips/vox_00104", "clips/woman_elderly_524", "grid/others/lbbc2a"}
    for network in (*NETWORKS, "generator_late", "syncnet_late"):
        train, val = (set(read_names(lists / network / f"{part}.txt")) for part in ("train", "val"))
        assert not train & val and not (train | val) & (test | people)
        assert not (train | val) & set(FOREIGN)
        assert train | val | test | people | set(FOREIGN) == {*SENTENCES, *PEOPLE, *FOREIGN}


def test_judge_holds_out_other_sentences(lists):
    assert set(read_names(lists / "judge" / "val.txt")) <= set(read_names(lists / "syncnet" / "train.txt"))


def test_short_speakers_are_repeated(lists):
    for network, times in {"generator": 20, "generator_late": 6, "syncnet_late": 1}.items():
        names = read_names(lists / network / "train.txt")
        assert names.count("clips/man_512") == names.count("grid/others/brbk7n") == times
        assert max(names.count(name) for name in SENTENCES) == 1


@pytest.fixture
def card(monkeypatch):
    """The modules of the recipe for a GPU."""
    monkeypatch.syspath_prepend(str(RECIPES / "starter" / "card"))
    names = ("augmentation", "device_clips", "train")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    return SimpleNamespace(**{name: importlib.import_module(name) for name in names})


@pytest.fixture
def two_clips(tmp_path):
    folders = [
        write_clip(tmp_path / "clips" / name, 40, seed=seed) for seed, name in enumerate(("a/1", "b/1"))
    ]
    (tmp_path / "train.txt").write_text("a/1\nb/1\n")
    (tmp_path / "val.txt").write_text("b/1 1\n")
    return [read_clip(name, folder) for name, folder in zip(("a/1", "b/1"), folders, strict=True)]


def test_windows_on_the_device_are_those_of_the_clips(card, two_clips, tmp_path):
    clips = card.device_clips.read_clips(tmp_path / "clips", tmp_path / "train.txt", torch.device("cpu"))
    drawn, frames = torch.tensor([0, 1, 1]), torch.tensor([1, 9, 20])
    faces, mels, frame_mels = (
        clips.windows(drawn, frames),
        clips.window_mels(drawn, frames),
        clips.frame_mels(drawn, frames),
    )
    for number, (clip, frame) in enumerate(zip(drawn.tolist(), frames.tolist(), strict=True)):
        expected = FaceReader(cache=False)(two_clips[clip], frame)
        np.testing.assert_array_equal(faces[number], expected)
        np.testing.assert_array_equal(mels[number], mel_columns(two_clips[clip].mel(), frame))
        np.testing.assert_array_equal(
            frame_mels[number, 2], mel_columns(two_clips[clip].mel(), frame + 2 + MEL_SHIFT)
        )


def test_augmentation_of_windows_and_reference_mouths(card):
    torch.manual_seed(0)
    windows = torch.randint(0, 256, (8, 5, 96, 96, 3), dtype=torch.uint8)
    changed = card.augmentation.Augmentation(torch.device("cpu")).faces(windows, 0.0, windows)
    plain = windows.permute(0, 1, 4, 2, 3) / 255
    torch.testing.assert_close(changed.faces, plain.clamp(1e-4, 1), atol=1e-3, rtol=0)
    off = (changed.references - plain).abs().mean((0, 1, 2))
    assert off[70:80, 40:56].mean() > 5 * off[:10].mean()


def test_amplified_audio_moves_embeddings_away_from_silence(card):
    torch.manual_seed(0)
    network = Wav2Lip(width=2).eval()
    mels = torch.rand(4, 1, 80, 16) * 8 - 4
    silence = torch.full((1, 1, 80, 16), -4.0)
    with torch.no_grad():
        before, quiet = network.audio_encoder(mels), network.audio_encoder(silence)
        card.train.amplify_audio(network, 1.5)
        after = network.audio_encoder(mels)
        torch.testing.assert_close(network.audio_encoder(silence), quiet)
    torch.testing.assert_close(after, (quiet + 1.5 * (before - quiet)).clamp(min=0))


@pytest.mark.slow
def test_recipe_for_a_gpu_trains_both_networks(two_clips, tmp_path):
    script = [
        sys.executable,
        RECIPES / "starter" / "card" / "train.py",
        tmp_path / "clips",
        tmp_path,
        tmp_path / "out",
    ]
    flags = ["--minutes", "0.1", "--width", "2", "--batch", "4", "--device", "cpu"]
    subprocess.run([*script, *flags], check=True, env={**os.environ, "PYTHONPATH": str(RECIPES.parent)})
    assert checkpoint.load(tmp_path / "out" / "generator.pth", "generator").mel_shift == -1
    assert checkpoint.load(tmp_path / "out" / "syncnet.pth", "syncnet").width == 2


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


def test_stored_curves_fall():
    curves = json.loads((RECIPES / "starter" / "curves.json").read_text())
    assert set(curves) == set(NETWORKS)
    for parts in curves.values():
        for points in parts.values():
            steps = [step for step, _ in points]
            assert steps == sorted(set(steps)) and points[-1][1] < points[0][1]
