"""The shape of the package: who imports whom, how long files are, what imports cost."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "wav2lip_npu"
# Each module imports only from those before it; cli imports a command when it runs.
ORDER = [
    "__init__",
    "errors",
    "atomic",
    "flags",
    "arrays",
    "filelists",
    "device",
    "ascend",
    "planes",
    "overlap",
    "stills",
    "media",
    "sound",
    "encode",
    "mel",
    "blend",
    "models",
    "fitting",
    "torchscript",
    "weights_file",
    "starter",
    "checkpoint",
    "detectors",
    "motion",
    "tracking",
    "faces",
    "exported",
    "graph_parts",
    "offline_model",
    "engines",
    "generate",
    "rest",
    "speak",
    "report",
    "takes",
    "clips",
    "augment",
    "face_reader",
    "videos",
    "processes",
    "clip_folder",
    "json_lines",
    "records",
    "preprocess",
    "preprocess_command",
    "data",
    "losses",
    "synchrony",
    "clip_search",
    "inspection",
    "findings",
    "resync",
    "doctor",
    "pace",
    "averages",
    "curves",
    "distributed",
    "train_options",
    "train_state",
    "train",
    "train_syncnet",
    "train_generator",
    "parity",
    "installation",
    "graphs",
    "export",
    "compare",
    "train_session",
    "train_commands",
    "dub",
    "dub_command",
    "rows",
    "jobs",
    "contents",
    "face_cache",
    "job_results",
    "batch",
    "crew",
    "ray_cluster",
    "actor",
    "cluster",
    "resume",
    "watch",
    "batch_display",
    "batch_command",
    "export_command",
    "compare_command",
    "doctor_command",
    "cli",
    "__main__",
]


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("wav2lip_npu"):
            inside = (node.module or "").partition(".")[2]
            found |= {inside} if inside else {alias.name for alias in node.names}
    return {name for name in found if (PACKAGE / f"{name}.py").exists()}


def test_every_module_has_its_place():
    assert {path.stem for path in PACKAGE.glob("*.py")} == set(ORDER)


@pytest.mark.parametrize("name", ORDER)
def test_imports_point_up_the_list(name):
    above = set(ORDER[: ORDER.index(name) + 1])  # a function that is sent elsewhere may import its module
    assert imports_of(PACKAGE / f"{name}.py") <= above


def test_options_cost_no_torch():
    """`--help` reads the options of a command; torch alone would take a second."""
    code = "import sys, wav2lip_npu.dub_command, wav2lip_npu.train_commands, wav2lip_npu.cli; sys.exit(any(m in sys.modules for m in ('torch', 'librosa')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent).returncode == 0


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.stem)
def test_devices_are_named_in_one_file(path):
    tree = ast.parse(path.read_text())
    named = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and re.fullmatch(r"(npu|cuda|cpu|hccl|nccl|gloo)(:\d*)?", str(node.value))
    ]
    assert not named or path.stem == "device"


def test_there_is_no_drawer_for_odds_and_ends():
    assert not [
        path for path in PACKAGE.rglob("*.py") if path.stem in {"utils", "helpers", "common", "config"}
    ]
