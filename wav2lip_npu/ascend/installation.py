"""What an Ascend installation consists of, in which state this machine's is, and what mends it.

Plugin, CANN (the vendor's libraries), driver and card each can be missing; what PyTorch says then does not
name the missing one. Facts about torch_npu 2.13 and the releases that go together are the vendor's.
"""

from __future__ import annotations

import glob
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from wav2lip_npu import device
from wav2lip_npu.errors import ExportError

PLUGIN = "torch_npu"
_TOOLKITS = ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")
"""Variables that CANN's set_env.sh sets."""
_PLACES = (
    "/usr/local/Ascend/ascend-toolkit/latest",
    "/usr/local/Ascend/cann",
    "~/Ascend/ascend-toolkit/latest",
    "~/Ascend/cann",
)
_DRIVER = "/usr/local/Ascend/driver/version.info"
_CARDS = "/dev/davinci[0-9]*"
_SMI_TIMEOUT_S = 20
_CPU_TORCH = "--index-url https://download.pytorch.org/whl/cpu"


class Row(NamedTuple):
    """Releases that go together."""

    plugin: str
    cann: str
    python: str


# By the vendor's table; the newest last, the one that is recommended where none is installed.
ROWS = (
    Row("2.1.0", "8.0.RC2", "3.8-3.11"),
    Row("2.5.1", "8.1.RC1", "3.9-3.11"),
    Row("2.6.0.post5", "8.5.0", "3.9-3.11"),
    Row("2.7.1.post8", "9.1.0", "3.9-3.13"),
    Row("2.8.0.post4", "9.0.0", "3.9-3.13"),
    Row("2.9.0.post6", "9.1.0", "3.10-3.13"),
    Row("2.10.0.post4", "9.1.0", "3.10-3.13"),
    Row("2.11.0", "9.1.0", "3.10-3.14"),
    Row("2.12.0", "9.1.0", "3.10-3.14"),
    Row("2.13.0", "9.1.0", "3.10-3.14"),
)

READY = "ready"
NO_PLUGIN = "no plugin"
OTHER_TORCH = "plugin of another torch"
TWO_ACCELERATORS = "two accelerators"
NO_CANN = "plugin but no CANN"
NO_CARD = "no card"


@dataclass(frozen=True, kw_only=True)
class Ascend:
    """What was found, and what mends it."""

    state: str
    """One of the states above."""
    reason: str
    """What the plugin said when it was loaded."""
    torch: str
    plugin: str | None
    cann: str | None
    cann_folder: str | None
    driver: str | None
    cards: list[dict[str, str]]
    """What npu-smi tells of each: index, name, health."""
    device_files: list[str]
    fits: Row | None
    """The releases that go with this torch."""

    @property
    def mend(self) -> str:
        """The command that brings the next state nearer, empty when all is there."""
        return _mend(self)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "mend": self.mend, "fits": self.fits._asdict() if self.fits else None}


def examine() -> Ascend:
    """Look at plugin, CANN, driver and cards; nothing is changed, and npu-smi is asked where there is one."""
    import torch

    count, reason = device.count_available(device.NPU)
    plugin = _plugin_version()
    folder, cann = _cann()
    cards, smi_driver = _npu_smi()
    torch_version = str(torch.__version__)
    state = _state(count, reason, plugin, torch_version, torch.version.cuda is not None)
    fits = next((row for row in ROWS if _base(row.plugin) == _base(torch_version)), None)
    return Ascend(
        state=state,
        reason=reason,
        torch=torch_version,
        plugin=plugin,
        cann=cann,
        cann_folder=folder,
        driver=_version_in(Path(_DRIVER)) or smi_driver,
        cards=cards,
        device_files=sorted(glob.glob(_CARDS)),
        fits=fits,
    )


def chip() -> str | None:
    """The first card as the vendor's compiler calls it, such as `Ascend310P3`; none if npu-smi tells none."""
    names = [card["name"] for card in _npu_smi()[0] if card["index"] != "?"]
    return f"Ascend{names[0].removeprefix('Ascend')}" if names else None


def compile_offline(command: Sequence[str], target: Path) -> bool:
    """Run the vendor's compiler on absolute paths, which takes minutes; False where it is not there.

    Raises `ExportError` with what it says when it fails or leaves no `target`.
    """
    program = shutil.which(command[0])
    if program is None:
        return False
    with tempfile.TemporaryDirectory() as folder:  # it leaves notes and kernels where it is run
        done = subprocess.run(
            [program, *command[1:]],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    if done.returncode or not target.is_file():
        said = [line.strip() for line in done.stdout.splitlines() if line.strip()]
        coded = [line for line in said if re.match(r"E[A-Z]?\d{4,}", line)]  # such as E19010
        told = (coded or said[-1:] or ["it said nothing"])[0]
        raise ExportError(
            f"{command[0]} failed with code {done.returncode}: {told:.300}. "
            "Check --chip against npu-smi info, and that CANN's set_env.sh is sourced."
        )
    return True


def _state(count: int, reason: str, plugin: str | None, torch_version: str, cuda_torch: bool) -> str:
    if count:
        return READY
    if plugin is None:
        return NO_PLUGIN
    if "Two accelerators" in reason or (cuda_torch and reason):
        return TWO_ACCELERATORS
    if _base(plugin) != _base(torch_version):
        return OTHER_TORCH
    return NO_CANN if reason else NO_CARD


def _mend(found: Ascend) -> str:
    """The exact command; a word of why where there is none."""
    base = _base(found.torch)
    if found.state == READY:
        return ""
    if found.state == TWO_ACCELERATORS:
        return (
            f"pip install --force-reinstall torch=={base} {_CPU_TORCH}   (this torch is built for CUDA; "
            f"{PLUGIN} wants the CPU build)"
        )
    if found.state in (NO_PLUGIN, OTHER_TORCH):
        return _plugin_command(found)
    if found.state == NO_CANN:
        if found.cann_folder is not None:
            script = Path(found.cann_folder).parent / "set_env.sh"
            return f"source {script}   (CANN {found.cann or ''} is there, its libraries are not on the path)"
        wanted = found.fits.cann if found.fits else "of the vendor's table"
        return (
            f"install CANN {wanted} (toolkit and kernels of your chip, hiascend.com/software/cann) or use an "
            f"image that has it, then: source {Path(_PLACES[0]).parent}/set_env.sh"
        )
    visible = os.environ.get("ASCEND_RT_VISIBLE_DEVICES")
    if visible is not None and (not visible.strip() or found.device_files):
        return f"unset ASCEND_RT_VISIBLE_DEVICES   (it is {visible!r}, and hides the cards)"
    closed = [path for path in found.device_files if not os.access(path, os.R_OK | os.W_OK)]
    if closed:
        return f"sudo usermod -aG HwHiAiUser $USER   (and log in again: {closed[0]} is not open to you)"
    if found.device_files:
        return "npu-smi info   (device files are there; the driver or a card is not healthy)"
    return (
        "ls /dev/davinci*   (no device file: install the driver of the card, or start the container with "
        "--device /dev/davinci0 --device /dev/davinci_manager --device /dev/devmm_svm --device /dev/hisi_hdc)"
    )


def _plugin_command(found: Ascend) -> str:
    """How to get a plugin that goes with this torch, or a torch that goes with a plugin."""
    if not (sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64")):
        return f"use Linux on x86_64 or aarch64: there is no {PLUGIN} for {sys.platform} {platform.machine()}"
    packages = "pyyaml attrs decorator psutil scipy"
    if found.fits is not None:
        return f"pip install torch-npu=={found.fits.plugin} {packages}"
    row = ROWS[-1]
    return (
        f"pip install torch=={_base(row.plugin)} {_CPU_TORCH} && "
        f"pip install torch-npu=={row.plugin} {packages}   (there is no {PLUGIN} for torch {found.torch})"
    )


def _base(version: str) -> str:
    """`2.13.0` of `2.13.0+cpu`, `2.13.0.post2` and the like."""
    named = re.match(r"\d+\.\d+\.\d+", version)
    return named[0] if named else version


def _plugin_version() -> str | None:
    loaded = getattr(sys.modules.get(PLUGIN), "__version__", None)
    if loaded is not None:
        return str(loaded)
    try:
        return metadata.version(PLUGIN)
    except metadata.PackageNotFoundError:
        return "unknown" if importlib.util.find_spec(PLUGIN) else None


def _cann() -> tuple[str | None, str | None]:
    """Folder and version of CANN."""
    named = [os.environ[name] for name in _TOOLKITS if os.environ.get(name)]
    for place in (*named, *map(os.path.expanduser, _PLACES)):
        folder = Path(place)
        if folder.is_dir():
            files = (*folder.glob("version.cfg"), *folder.glob("*-linux/ascend_toolkit_install.info"))
            return str(folder), next(filter(None, map(_version_in, files)), None)
    return None, None


def _version_in(file: Path) -> str | None:
    """The first version in one of the vendor's version files."""
    try:
        text = file.read_text(errors="replace")
    except OSError:
        return None
    named = re.search(r"version\w*\s*=\s*\[?([0-9][\w.]*)", text, re.IGNORECASE)
    return named[1] if named else None


def _npu_smi() -> tuple[list[dict[str, str]], str | None]:
    """Cards and driver version as npu-smi tells them."""
    program = shutil.which("npu-smi")
    if program is None:
        return [], None
    try:
        done = subprocess.run([program, "info"], capture_output=True, text=True, timeout=_SMI_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [{"index": "?", "name": "npu-smi", "health": str(error)}], None
    # A second line of each card begins with a number too, but names no chip.
    rows = re.findall(r"^\|\s*(\d+)\s+([A-Za-z0-9]*[A-Za-z]\w*)\s*\|\s*(\w+)\s*\|", done.stdout, re.MULTILINE)
    version = re.search(r"Version:\s*(\S+)", done.stdout)
    cards = [dict(zip(("index", "name", "health"), row, strict=True)) for row in rows]
    if done.returncode:
        cards.append({"index": "?", "name": "npu-smi", "health": (done.stderr or done.stdout).strip()[:200]})
    return cards, version[1] if version else None
