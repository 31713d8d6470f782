"""Real people side by side, with the sound of one of them, of the other, and of a third who is not seen."""

from __future__ import annotations

import importlib.util
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from support.faces import SHARED

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "speakers.py"
CLIPS = [SHARED / "clips" / f"{name}.mp4" for name in ("man_512", "woman_512", "man_844")]


@pytest.mark.slow
@pytest.mark.skipif(not CLIPS[0].exists(), reason="needs the sample clips")
def test_turns_of_real_people_get_the_right_face(monkeypatch):
    spec = importlib.util.spec_from_file_location("speakers_benchmark", BENCHMARK)
    assert spec is not None and spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, benchmark)  # dataclasses look there
    spec.loader.exec_module(benchmark)
    given = Namespace(clips=list(map(str, CLIPS)), asd=[], listeners="talk", turn=2.5, device="cpu")
    (figures,) = benchmark.measure_choices(given)["judges"].values()
    assert figures["turns"]["precision"] >= 0.95
    assert figures["turns"]["recall"] >= 0.6
    assert figures["turns"]["unseen_speaker_gets_a_face"] <= 0.2
    assert figures["none"]["precision"] >= 0.9
