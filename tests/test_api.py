"""The public Python API: lazy, typed, documented."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import docstring_parser
import pytest

import wav2lip_npu
from support.faces import face_frames
from wav2lip_npu.errors import UsageError

PACKAGE = Path(wav2lip_npu.__file__).parent
FUNCTIONS = [name for name in wav2lip_npu.__all__ if inspect.isfunction(getattr(wav2lip_npu, name))]


def test_import_is_lazy():
    code = "import sys, wav2lip_npu; sys.exit(bool({'torch', 'cv2', 'numpy', 'av'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent).returncode == 0


def test_names_for_type_checkers_match_run_time():
    (block,) = [node for node in ast.parse(inspect.getsource(wav2lip_npu)).body if isinstance(node, ast.If)]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    typed = {alias.asname: str(node.module) for node in imports for alias in node.names}
    assert typed == {
        name: f"wav2lip_npu.{module}" for module, names in wav2lip_npu._MODULES.items() for name in names
    }
    assert (PACKAGE / "py.typed").exists()


def test_unknown_name():
    with pytest.raises(AttributeError, match="dubb"):
        wav2lip_npu.dubb  # noqa: B018


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_is_documented(name):
    function = getattr(wav2lip_npu, name)
    docs = docstring_parser.parse(inspect.getdoc(function), docstring_parser.DocstringStyle.GOOGLE)
    parameters = {
        ("**" if parameter.kind is parameter.VAR_KEYWORD else "") + parameter.name
        for parameter in inspect.signature(function).parameters.values()
    }
    assert {parameter.arg_name for parameter in docs.params} == parameters
    assert docs.returns is not None and docs.raises
    assert docs.examples


@pytest.mark.parametrize("name", sorted(set(wav2lip_npu.__all__) - set(FUNCTIONS) - {"__version__"}))
def test_type_is_documented(name):
    value = getattr(wav2lip_npu, name)
    assert inspect.getdoc(value)
    is_class = name in {"FaceCache", "FaceStream"}
    assert dataclasses.is_dataclass(value) or issubclass(value, ValueError) or is_class


def test_unknown_option_names_the_nearest_one():
    with pytest.raises(UsageError, match="resize_factor"):
        wav2lip_npu.dub("face.mp4", "audio.wav", "out.mp4", resize_facto=2)


@pytest.fixture
def example_folder(tmp_path, face_video, speech, training_set, monkeypatch):
    """Provide the files of the examples."""
    for name in ("talk.mp4", "dubbed.mp4", "videos/a.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(face_video, tmp_path / name)
    cv2.imwrite(str(tmp_path / "photo.jpg"), next(face_frames(1)).to_image())
    for name in ("speech", "monday", "tuesday", "es", "de"):
        shutil.copy(speech, tmp_path / f"{name}.wav")
    shutil.copytree(training_set / "data", tmp_path / "lrs2_preprocessed")
    shutil.copytree(training_set / "lists", tmp_path / "filelists")
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FUNCTIONS, "Job"])
def test_example_runs(name, example_folder, one_thread):
    """Run the example of each docstring, training for two steps with a tiny network."""
    docs = inspect.getdoc(getattr(wav2lip_npu, name)) or ""
    code = "\n".join(line.strip()[4:] for line in docs.splitlines() if line.strip()[:3] in (">>>", "..."))
    assert code
    code = re.sub(r"steps=[\d_]+", "steps=2, width=2, batch_size=8, eval_interval=2", code)
    code = code.replace("workers=4", "workers=1")
    exec(compile(code, name, "exec"), {"wav2lip_npu": wav2lip_npu, "Job": wav2lip_npu.Job})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("device", None),
        ("detector", None),
        ("precision", 16),
        ("engine", ["onnx"]),
        ("checkpoint_path", None),
    ],
)
def test_load_models_names_a_value_of_a_wrong_type(name, value):
    with pytest.raises(UsageError, match=rf"{name} .*{re.escape(repr(value))}"):
        wav2lip_npu.load_models(**{name: value})


def test_wrong_models_and_paths_are_named(face_video, speech, tmp_path):
    out = tmp_path / "o.mp4"
    for models in ("starter", Path("starter"), lambda: "starter"):
        with pytest.raises(UsageError, match="models .*starter.*load_models"):
            wav2lip_npu.dub(face_video, speech, out, models=models)
    with pytest.raises(UsageError, match="models 'starter'"):
        list(wav2lip_npu.run_jobs([wav2lip_npu.Job(face="f", audio="a", outfile="o.mp4")], "starter"))
    for files in ((None, speech, out), (face_video, 5, out), (face_video, speech, b"o.mp4")):
        with pytest.raises(UsageError, match="is not a path"):
            wav2lip_npu.dub(*files)
    assert not out.exists()


def test_output_of_one_dub_is_not_an_input_of_another(face_video, speech, tmp_path, tiny_checkpoint):
    """A3: outputs of the same pass, and the weights of models that were loaded before."""
    second, weights = tmp_path / "second.mp4", tmp_path / "w.mp4"
    shutil.copy(face_video, second)
    shutil.copy(tiny_checkpoint, weights)
    models = wav2lip_npu.load_models(weights, detector="hog", device="cpu")
    pairs = [(speech, second), (second, tmp_path / "o.mp4"), (speech, weights)]
    results = wav2lip_npu.dub_many(face_video, pairs, models=models, box=(20, 220, 40, 240))
    assert "second.mp4" in str(results[0]) and "--audio" in str(results[0])
    assert "no audio" in str(results[1])
    assert "w.mp4" in str(results[2]) and "weights" in str(results[2])
    assert second.read_bytes() == face_video.read_bytes()
    assert weights.read_bytes() == tiny_checkpoint.read_bytes()


def test_report_does_not_replace_files_of_its_dub(tmp_path):
    """A3: `DubReport.write` from Python."""
    names = {name: str(tmp_path / name) for name in ("face", "audio", "checkpoint", "outfile")}
    for path in names.values():
        Path(path).write_text("precious")
    fields = {field.name: "" for field in dataclasses.fields(wav2lip_npu.DubReport)}
    report = wav2lip_npu.DubReport(**{**fields, **names})
    for name, path in names.items():
        with pytest.raises(wav2lip_npu.OutputError, match=name):
            report.write(path)
        assert Path(path).read_text() == "precious"
    report.write(tmp_path / "report.json")
