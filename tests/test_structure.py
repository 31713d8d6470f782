"""Layout of the package: layers, file length, device names, import cost."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "wav2lip_npu"
LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")


def test_imports_point_down():
    """Check the layers contract in pyproject.toml."""
    assert subprocess.run([LINT_IMPORTS, "--no-cache"], cwd=PACKAGE.parent).returncode == 0


def test_help_imports_no_torch():
    """`--help` imports the options of a command; torch alone would take a second."""
    code = "import sys, wav2lip_npu.cli.dub, wav2lip_npu.cli.train, wav2lip_npu.cli.evaluate, wav2lip_npu.cli.main; sys.exit(any(m in sys.modules for m in ('torch', 'librosa')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent).returncode == 0


@pytest.mark.slow
def test_dub_imports_no_large_library(tmp_path):
    """numba, scikit-image and scipy cost a second and 200 MB at the start of each dub."""
    clip = PACKAGE / "weights" / "calibration.mp4"
    words = ["dub", "--face", clip, "--audio", clip, "--outfile", tmp_path / "out.mp4", "--duration", 0.4]
    code = f"import sys; from wav2lip_npu.cli import main; code = main.main({list(map(str, words))}); sys.exit(code or any(m in sys.modules for m in ('numba', 'scipy', 'skimage', 'librosa')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent).returncode == 0


def test_device_names_are_in_one_folder():
    """But `hardware_decoding` has FFmpeg's names of decoders."""
    name = re.compile(r"(npu|cuda|cpu|hccl|nccl|gloo)(:\d*)?")
    files = [path for path in PACKAGE.rglob("*.py") if any(map(name.fullmatch, strings_of(path)))]
    elsewhere = {path.stem for path in files if path.parent.name != "devices"}
    assert len(files) > 1 and elsewhere <= {"hardware_decoding"}


def strings_of(path: Path) -> list[str]:
    """Return the constant strings in the code of a file."""
    constants = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant))
    return [node.value for node in constants if isinstance(node.value, str)]


def test_there_is_no_utils_module():
    assert not [
        path for path in PACKAGE.rglob("*.py") if path.stem in {"utils", "helpers", "common", "config"}
    ]


def test_long_files_say_why():
    """A file of over 300 lines usually holds two concepts; otherwise its first docstring gives the reason."""
    long = {path: text for path in PACKAGE.rglob("*.py") if (text := path.read_text()).count("\n") > 300}
    silent = [
        path for path, text in long.items() if "lines" not in (ast.get_docstring(ast.parse(text)) or "")
    ]
    assert not silent


def test_folders_are_empty_packages():
    """`import wav2lip_npu.cli.main` must not import the modules of the commands."""
    assert not [path for path in PACKAGE.glob("*/__init__.py") if path.read_text()]
    assert len([path for path in PACKAGE.iterdir() if path.suffix == ".py"]) <= 10
