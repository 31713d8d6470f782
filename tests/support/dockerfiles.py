"""Instructions of a Dockerfile, and its install steps in a virtual environment."""

from __future__ import annotations

import fnmatch
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Instruction(NamedTuple):
    """One instruction with its continuation lines joined."""

    line: int
    name: str
    text: str


def instructions(text: str) -> list[Instruction]:
    """Return the instructions in order, without comments."""
    result, started, parts = [], 0, []
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#") or (not parts and not line.strip()):
            continue
        started = started if parts else number
        parts.append(line.rstrip().removesuffix("\\").strip())
        if not line.rstrip().endswith("\\"):
            name, _, rest = " ".join(parts).partition(" ")
            result.append(Instruction(started, name.upper(), rest.strip()))
            parts = []
    assert not parts, "the last line ends with a backslash"
    return result


def copied_files(text: str) -> Iterator[str]:
    """Yield the sources of the COPY instructions."""
    for step in instructions(text):
        if step.name == "COPY":
            yield from step.text.split()[:-1]


def is_sent_to_builder(name: str) -> bool:
    """Return whether .dockerignore lets a file through."""
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    included = True
    for pattern in patterns:
        top = name.split("/")[0]
        if fnmatch.fnmatch(name, pattern.removeprefix("!")) or pattern == f"!{top}":
            included = pattern.startswith("!")
    return included


def run_install_steps(text: str, folder: Path, skipped: str) -> tuple[dict[str, str], int]:
    """Run the COPY and `pip` steps of a Dockerfile in folder/opt instead of /opt/wav2lip.

    `skipped`, the choice of an index of packages, is removed. Returns the environment of the image and the number
    of RUN steps that were run.
    """
    home, source = folder / "opt", folder / "source"
    for path in (folder / "home", source):
        path.mkdir()
    variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    variables |= {"HOME": str(folder / "home"), "PATH": f"{home}/bin:{variables['PATH']}"}
    ran = 0
    for step in instructions(text):
        if step.name == "ARG" and "=" in step.text:
            name, _, value = step.text.partition("=")
            variables.setdefault(name, value)
        if step.name == "COPY":
            *names, target = step.text.split()
            for name in names:
                to = source / target / Path(name).name if target.endswith("/") else source / target
                to.parent.mkdir(parents=True, exist_ok=True)
                if (ROOT / name).is_dir():
                    shutil.copytree(ROOT / name, to, dirs_exist_ok=True)
                else:
                    shutil.copyfile(ROOT / name, to)
        if step.name == "RUN" and ("pip install" in step.text or "-m venv" in step.text):
            command = step.text.replace("/opt/wav2lip", str(home)).replace(skipped, "")
            command = command.replace("python3 -m venv", f"{sys.executable} -m venv")
            subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=source, env=variables, check=True)
            ran += 1
    return variables, ran
