"""The shape of the package: who imports whom, how long files are, what imports cost."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "wav2lip_npu"
LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")


def test_imports_point_down_the_floors():
    """The contract is in pyproject.toml."""
    assert subprocess.run([LINT_IMPORTS, "--no-cache"], cwd=PACKAGE.parent).returncode == 0


def test_options_cost_no_torch():
    """`--help` reads the options of a command; torch alone would take a second."""
    code = "import sys, wav2lip_npu.cli.dub, wav2lip_npu.cli.train, wav2lip_npu.cli.main; sys.exit(any(m in sys.modules for m in ('torch', 'librosa')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent).returncode == 0


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
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
