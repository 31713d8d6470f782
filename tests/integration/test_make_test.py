"""The test commands of the Makefile print a summary even if a test ends its process."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TESTS = """
import os
import pytest

pytestmark = pytest.mark.{mark}

def test_before(): pass

def test_that_ends_its_process():
    if not os.path.exists("{mark}"):  # by file, xdist runs it again
        open("{mark}", "w").close()
        os._exit(0)

def test_after(): pass
"""


MAKEFILE = (ROOT / "Makefile").read_text()
ARGUMENTS = dict(re.findall(r"^(\w+) := (-m .*)$", MAKEFILE, re.MULTILINE))


def test_all_commands_have_these_arguments():
    used = re.findall(r"(?:-m pytest|\$\(PYTEST\)) (.*)$", MAKEFILE, re.MULTILINE)
    assert used and set(used) == {f"$({name})" for name in ARGUMENTS}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name != "PARALLEL" else []) for name in ARGUMENTS]
)
def test_summary_after_a_test_that_ends_its_process(tmp_path, name):
    """A18: Ray once ended the pytest process with exit code 1 and without a summary."""
    arguments = shlex.split(ARGUMENTS[name])
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  slow\n  alone\n  fast\n")
    selection = arguments[arguments.index("-m") + 1]
    mark = next(mark for mark in ("slow", "alone", "fast") if f"not {mark}" not in selection)
    (tmp_path / "test_it.py").write_text(TESTS.format(mark=mark))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    # The plugins of all installed packages would take most of the time.
    environment |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "xdist.plugin"}
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments, "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert result.returncode == 1, result.stdout
    assert re.search(r"^=+ 1 failed, [23] passed in .*=+$", result.stdout, re.MULTILINE), result.stdout
    assert "test_that_ends_its_process" in result.stdout
