"""The report for a machine with a GPU, on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from support.trainings import ROOT


@pytest.mark.slow
def test_quick_report_of_the_cpu(tmp_path):
    script = ROOT / "benchmarks" / "gpu_report.py"
    words = ["--device", "cpu", "--quick", "--minutes", "20", "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, str(script), *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + (tmp_path / "report.md").read_text()
    report = json.loads((tmp_path / "report.json").read_text())
    assert all(part["ok"] for part in report["parts"].values())
    training = report["parts"]["training, width 2, compile off"]["figures"]
    for kind in ("train_syncnet", "train"):
        assert set(training[kind]["windows_per_second"]) == {"end to end", "step alone", "data alone"}
        assert all(rate > 0 for rate in training[kind]["windows_per_second"].values())
    (figures,) = report["parts"]["dub 192x256"]["figures"]["rounds"]
    stages = [figures[f"{stage} alone, s"] for stage in ("decode", "faces", "generate", "blend", "encode")]
    assert figures["floor, s"] >= max(stages) > 0
    assert figures["dub, frames/s"] > 0
    assert "frames/s" in (tmp_path / "report.md").read_text()
