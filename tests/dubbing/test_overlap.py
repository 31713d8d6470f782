"""Stages of a dub run at the same time, shown with a slow device: each test ends only if they do."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from support.faces import write_audio
from wav2lip_npu.devices import device as devices
from wav2lip_npu.dubbing import pipeline

LONGEST_S = 60
QUICK = {"preset": "ultrafast", "box": (40, 200, 60, 220)}


@pytest.mark.parametrize("lanes", [2, 4])
def test_batches_are_generated_at_the_same_time(models, face_video, speech, tmp_path, monkeypatch, lanes):
    together = threading.Barrier(lanes, timeout=LONGEST_S)
    decode = models.generator.decode

    def slow(*args: Any, **values: Any) -> Any:
        together.wait()  # passes only if all lanes are here
        return decode(*args, **values)

    monkeypatch.setattr(devices, "cpu_count", lambda: lanes)
    monkeypatch.setattr(models.generator, "decode", slow)
    report = pipeline.dub(face_video, speech, tmp_path / "out.mp4", models=models, **QUICK)
    assert report.frames == 15  # four batches of four faces


def test_first_frames_are_encoded_while_later_ones_are_generated(models, face_video, tmp_path, monkeypatch):
    audio, written, batches = write_audio(tmp_path / "long.wav", 2.0), threading.Event(), []
    decode = models.generator.decode

    def slow(*args: Any, **values: Any) -> Any:
        batches.append(1)
        assert len(batches) < 8 or written.wait(LONGEST_S)
        return decode(*args, **values)

    monkeypatch.setattr(devices, "cpu_count", lambda: 2)
    monkeypatch.setattr(models.generator, "decode", slow)
    pipeline.dub(
        face_video, audio, tmp_path / "out.mp4", models=models,
        progress=lambda done, total: written.set(), **QUICK,
    )  # fmt: skip
    assert len(batches) == 13


def test_slow_device_bounds_the_dub(models, face_video, speech, tmp_path, monkeypatch):
    pause = threading.Event()
    decode = models.generator.decode
    monkeypatch.setattr(devices, "cpu_count", lambda: 1)
    monkeypatch.setattr(models.generator, "decode", lambda *a, **v: (pause.wait(0.3), decode(*a, **v))[1])
    report = pipeline.dub(face_video, speech, tmp_path / "out.mp4", models=models, **QUICK)
    assert report.bound_by == "generate"
    assert report.stages["generate"].busy > 4 * 0.3
    assert report.stages["encode"].starved > report.stages["encode"].busy
