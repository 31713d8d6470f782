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

import docstring_parser
import pytest

import wav2lip_npu
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
    assert dataclasses.is_dataclass(value) or issubclass(value, ValueError) or name == "FaceCache"


def test_unknown_option_names_the_nearest_one():
    with pytest.raises(UsageError, match="resize_factor"):
        wav2lip_npu.dub("face.mp4", "audio.wav", "out.mp4", resize_facto=2)


@pytest.fixture
def example_folder(tmp_path, face_video, speech, training_set, monkeypatch):
    """Provide the files of the examples."""
    for name in ("talk.mp4", "videos/a.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(face_video, tmp_path / name)
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
