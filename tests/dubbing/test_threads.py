"""Threads share models: each output equals that of a single dub, for each detector and engine."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import thread_dubs

ROOT = Path(__file__).resolve().parents[2]


def run_program(detector: str, engine: str, dubs: int) -> str:
    words = [sys.executable, "-m", "support.thread_dubs", detector, engine, str(dubs)]
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def test_threads_share_models(capsys):
    """A1: eight threads and one `load_models()`. A HOG detector in two threads crashed the process."""
    thread_dubs.main("hog", "torch", 8)
    assert capsys.readouterr().out == "8 of 8 equal\n"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("detector", "engine"),
    [
        ("retinaface", "torch"),
        ("hog", "torch"),
        ("s3fd", "torch"),
        ("hog", "onnx"),
        ("square", "bench"),
        ("square", "acl"),
    ],
)
def test_forty_dubs_with_each_detector_and_engine(detector, engine):
    """A1: eight threads; `bench` and `acl` are fake runtimes of .om files."""
    if engine != "torch" and importlib.util.find_spec("onnxruntime") is None:
        pytest.skip("onnxruntime is not installed: pip install 'wav2lip-npu[export]'")
    assert run_program(detector, engine, 40) == "40 of 40 equal\n"
