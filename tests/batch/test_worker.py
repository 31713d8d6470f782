"""The models of a batch worker."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from wav2lip_npu.batch import worker
from wav2lip_npu.batch.jobs import Job
from wav2lip_npu.dubbing import inference


def test_models_are_loaded_once_for_concurrent_passes(monkeypatch):
    loaded = []

    def load(checkpoint_path: str, **options: Any) -> str:
        loaded.append(checkpoint_path)
        time.sleep(0.05)
        return f"models of {checkpoint_path}"

    monkeypatch.setattr(inference, "load_models", load)
    models = worker.ModelHolder("cpu")
    both = threading.Barrier(2, timeout=60)

    def ask(weights: str) -> Any:
        both.wait()
        return models(Job(face="a", audio="b", outfile="c.mp4", checkpoint_path=weights))

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(ask, ["one", "one"])) == ["models of one"] * 2
        assert loaded == ["one"]
        assert list(pool.map(ask, ["one", "two"])) == ["models of one", "models of two"]


def test_replaced_weights_are_loaded_again(monkeypatch, tmp_path):
    monkeypatch.setattr(
        inference, "load_models", lambda checkpoint_path, **_: Path(checkpoint_path).read_text()
    )
    weights = tmp_path / "weights.pth"
    models = worker.ModelHolder("cpu")
    for content in ("one", "another"):
        (tmp_path / "new").write_text(content)
        os.replace(tmp_path / "new", weights)
        assert models(Job(face="a", audio="b", outfile="c.mp4", checkpoint_path=str(weights))) == content
