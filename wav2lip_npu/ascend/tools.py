"""Ascend command-line tools: `npu-smi` lists the cards, `atc` compiles ONNX files to .om files."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from wav2lip_npu import signals, watchdog
from wav2lip_npu.errors import ExportError

_NPU_SMI_TIMEOUT_S = 20
_UNKNOWN = "?"
_POLL_S = 0.2


class NpuSmi(NamedTuple):
    """Output of `npu-smi info`."""

    cards: list[dict[str, str]]
    """Index, name and health of each card; a failure of npu-smi is an entry with the index `?`."""
    driver: str | None
    """Driver version."""


def npu_smi() -> NpuSmi:
    """Run `npu-smi info`. The result is empty if it is not installed."""
    program = shutil.which("npu-smi")
    if program is None:
        return NpuSmi([], None)
    try:
        done = subprocess.run([program, "info"], capture_output=True, text=True, timeout=_NPU_SMI_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return NpuSmi([_failure(str(error))], None)
    # The second line of a card also starts with a number, but has no chip name.
    rows = re.findall(r"^\|\s*(\d+)\s+([A-Za-z0-9]*[A-Za-z]\w*)\s*\|\s*(\w+)\s*\|", done.stdout, re.MULTILINE)
    version = re.search(r"Version:\s*(\S+)", done.stdout)
    cards = [dict(zip(("index", "name", "health"), row, strict=True)) for row in rows]
    if done.returncode:
        cards.append(_failure((done.stderr or done.stdout).strip()[:200]))
    return NpuSmi(cards, version[1] if version else None)


def _failure(reason: str) -> dict[str, str]:
    return {"index": _UNKNOWN, "name": "npu-smi", "health": reason}


def chip_name() -> str | None:
    """Return the `atc` name of the first card's chip, such as `Ascend310P3`; `None` if npu-smi lists none."""
    names = [card["name"] for card in npu_smi().cards if card["index"] != _UNKNOWN]
    return f"Ascend{names[0].removeprefix('Ascend')}" if names else None


def run_atc(command: Sequence[str], target: Path) -> bool:
    """Run an `atc` command with absolute paths, which takes minutes. Return False if atc is not installed.

    Raises `ExportError` with the compiler's message if it fails or does not write `target`.
    """
    program = shutil.which(command[0])
    if program is None:
        return False
    before = _state(target)
    with tempfile.TemporaryDirectory() as folder:  # atc writes logs and kernels into the current folder
        try:
            code, output = _run([program, *command[1:]], folder)
        except BaseException:
            if _state(target) != before:
                target.unlink()
            raise
    if code or not target.is_file():
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        with_code = [line for line in lines if re.match(r"E[A-Z]?\d{4,}", line)]  # such as E19010
        message = (with_code or lines[-1:] or ["no output"])[0]
        raise ExportError(
            f"{command[0]} failed with code {code}: {message:.300}. "
            "Check --chip against npu-smi info, and that CANN's set_env.sh is sourced."
        )
    return True


def _run(command: Sequence[str], folder: str) -> tuple[int, str]:
    """Run a program in a folder and return its exit code and output; kill it if a stop signal arrives."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # kills its child processes too
    )

    def kill() -> None:
        os.killpg(process.pid, signal.SIGKILL)

    with process, watchdog.cleanup(kill):
        try:
            while True:
                signals.check()
                try:
                    output, _ = process.communicate(timeout=_POLL_S)
                except subprocess.TimeoutExpired:
                    continue
                return process.returncode, output
        except BaseException:
            kill()
            raise


def _state(path: Path) -> tuple[int, int] | None:
    """Return modification time and size of a file, or `None` if it does not exist."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
