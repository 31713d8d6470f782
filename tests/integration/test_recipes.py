"""Recipes: held-out clips are not in any training list, and the demo's camera keeps the face in view."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from wav2lip_npu.data.file_lists import read_names

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
