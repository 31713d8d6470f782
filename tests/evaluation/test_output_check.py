"""`--check`: outputs are judged while they are written."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from support.devices import DEVICE
from support.faces import SquareDetector, write_audio
from wav2lip_npu import DubOptions, Job, dub, evaluate, run_jobs
from wav2lip_npu.dubbing import inference
from wav2lip_npu.errors import UsageError
from wav2lip_npu.evaluation import output_check
from wav2lip_npu.evaluation.output_check import OutputCheck, watched
from wav2lip_npu.faces.find_faces import FaceOptions
from wav2lip_npu.media.video_writer import EncodeOptions


@pytest.fixture(scope="module")
def models(tiny_checkpoint) -> inference.Models:
    loaded = inference.load_models(tiny_checkpoint, detector="hog", device=str(DEVICE))
    return replace(loaded, detector=SquareDetector())


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    return write_audio(tmp_path_factory.mktemp("audio") / "a.wav", 2.4)


OPTIONS = DubOptions(
    encode=EncodeOptions(crf=1, preset="ultrafast"), faces=FaceOptions(box=(40, 200, 60, 200))
)


@pytest.mark.any_device
def test_check_does_not_change_the_output(models, face_video, audio, tmp_path):
    plain = dub(face_video, audio, tmp_path / "a.mp4", models=models, options=OPTIONS)
    checked = dub(face_video, audio, tmp_path / "b.mp4", models=models, options=OPTIONS, check=True)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert plain.check is None
    check = checked.check
    assert check is not None and not check.suspect
    assert check.windows >= 15 and 0 <= check.confidence <= 1 and abs(check.offset) <= 15
    assert check.jitter == 0 and abs(check.tail) < 0.05 and check.judge.startswith("starter")
    checked.write(tmp_path / "b.json")
    assert json.loads((tmp_path / "b.json").read_text())["check"]["confidence"] == check.confidence


@pytest.mark.slow
def test_check_agrees_with_an_evaluation_of_the_file(face_video, audio, tmp_path):
    checked = dub(face_video, audio, tmp_path / "a.mp4", check=True, crf=1)
    report = evaluate(tmp_path / "a.mp4", metrics=("expert",), device="cpu")
    assert checked.check.cosine == pytest.approx(report.figures["expert_cosine"].generated, abs=0.05)


def test_low_confidence_marks_a_job_as_suspect(models, face_video, audio, tmp_path):
    def run(**options):
        changed = replace(OPTIONS, **options)
        job = Job(face=face_video, audio=audio, outfile=tmp_path / "a.mp4", dub=changed)
        (result,) = run_jobs([job], models)
        return result

    result = run(min_confidence=1.0)
    assert result.status == "ok" and result.suspect and result.check["suspect"]
    assert "check" not in result.settings
    again = run(check=True)  # the option does not change the output, which is up to date
    assert again.key == result.key and again.seconds is None


def test_short_output_cannot_be_judged(models, face_video, speech, tmp_path):
    report = dub(face_video, speech, tmp_path / "a.mp4", models=models, options=OPTIONS, min_confidence=0.1)
    assert report.check.confidence is None and report.check.suspect


def test_confidence_out_of_range_is_named():
    with pytest.raises(UsageError, match="--min_confidence 2"):
        DubOptions(min_confidence=2)


@pytest.mark.parametrize(
    ("fps", "expected"),
    [
        (Fraction(25), [0, 1, 2, 3, 4, 5]),
        (Fraction(50), [0, 2, 4, 6, 8, 10]),
        (Fraction(25, 2), [0, 1, 1, 2, 2, 3]),
        (Fraction(30), [0, 1, 2, 4, 5, 6]),
    ],
)
def test_frames_of_other_rates_are_converted_to_25(monkeypatch, fps, expected):
    seen = []
    judge = SimpleNamespace(add_face=lambda number, yuv, box, cut: seen.append((number, yuv, tuple(box))))
    monkeypatch.setattr(output_check, "load_expert", lambda *_: None)
    monkeypatch.setattr(output_check, "ExpertJudge", lambda *_: judge)
    check = OutputCheck(None, fps, Fraction(2), FaceOptions(pads=(0, 10, 0, 0)), "cpu")  # type: ignore[arg-type]
    box = np.array([10, 10, 50, 70], np.float32)

    def frames():
        for index in range(20):
            tracked = SimpleNamespace(frame=SimpleNamespace(index=index), box=box, cut=False)
            yield SimpleNamespace(tracked=tracked, reason=None), index

    assert list(watched(frames(), [check])) == list(range(20))  # type: ignore[arg-type]
    assert [yuv for _, yuv, _ in seen][:6] == expected
    assert [number for number, _, _ in seen][:3] == [50, 51, 52]
    assert seen[0][2] == (10, 10, 50, 60)
