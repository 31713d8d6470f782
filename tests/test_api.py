"""The public Python API: lazy, typed, documented."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path

import docstring_parser
import pytest

import wav2lip_npu
from wav2lip_npu.errors import UsageError

PACKAGE = Path(wav2lip_npu.__file__).parent
FUNCTIONS = [name for name in wav2lip_npu.__all__ if inspect.isfunction(getattr(wav2lip_npu, name))]


def test_import_is_lazy():
    code = "import sys, wav2lip_npu; sys.exit(bool({'torch', 'cv2', 'numpy', 'av'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent).returncode == 0


def test_names_for_type_checkers_are_those_at_run_time():
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
    assert dataclasses.is_dataclass(value) or issubclass(value, ValueError) or name == "FaceCache"


def test_unknown_option_names_the_nearest_one():
    with pytest.raises(UsageError, match="resize_factor"):
        wav2lip_npu.dub("face.mp4", "audio.wav", "out.mp4", resize_facto=2)


SCRIPT = """
import wav2lip_npu

models: wav2lip_npu.Models = wav2lip_npu.load_models(device="cpu")
report: wav2lip_npu.DubReport = wav2lip_npu.dub("a.mp4", "b.wav", "c.mp4", models=models, crf=20)
spans: list[tuple[int, int]] = report.faceless_spans
options = wav2lip_npu.DubOptions(extend="hold", encode=wav2lip_npu.EncodeOptions(crf=20))
for result in wav2lip_npu.run_jobs([wav2lip_npu.Job(face="a", audio="b", outfile="c")], models):
    status: str = result.status
results: list[wav2lip_npu.JobResult] = wav2lip_npu.run_batch("jobs.csv")
summary: wav2lip_npu.PreprocessSummary = wav2lip_npu.preprocess("videos", "clips", workers=2)
trained: wav2lip_npu.TrainResult = wav2lip_npu.train_syncnet("clips", "syncnet", steps=10)
trained = wav2lip_npu.train_generator("clips", "generator", steps=10)
exported: wav2lip_npu.ExportedFile = wav2lip_npu.export_onnx("starter", "generator.onnx")
try:
    pass
except wav2lip_npu.Wav2LipError as error:
    message: str = str(error)
"""


@pytest.mark.slow
def test_mypy_accepts_a_script(tmp_path):
    """`mypy --strict` over a script that uses only the public API."""
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", PACKAGE.parent / "pyproject.toml"]
    done = subprocess.run(
        [*command, tmp_path / "script.py"], cwd=PACKAGE.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
