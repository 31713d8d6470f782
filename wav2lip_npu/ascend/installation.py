"""State of the Ascend installation: plugin (torch_npu), CANN, driver and card, and how to fix it.

Any part can be missing, and PyTorch's error does not tell which. The table of releases is from the
documentation of torch_npu 2.13.
"""

from __future__ import annotations

import glob
import importlib.util
import os
import platform
import re
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from wav2lip_npu.ascend import tools
from wav2lip_npu.devices import device

PLUGIN = "torch_npu"
_TOOLKITS = ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")
"""Environment variables set by CANN's set_env.sh."""
_CANN_FOLDERS = (
    "/usr/local/Ascend/ascend-toolkit/latest",
    "/usr/local/Ascend/cann",
    "~/Ascend/ascend-toolkit/latest",
    "~/Ascend/cann",
)
_DRIVER = "/usr/local/Ascend/driver/version.info"
_DEVICE_FILES = "/dev/davinci[0-9]*"
_CPU_TORCH = "--index-url https://download.pytorch.org/whl/cpu"


class Release(NamedTuple):
    """Versions that the vendor releases together."""

    plugin: str
    """Version of torch_npu; the torch version is the same without `.post`."""
    cann: str
    python: str
    """Range of Python versions."""


# From the vendor's table, newest last. The newest is recommended if torch matches none.
RELEASES = (
    Release("2.1.0", "8.0.RC2", "3.8-3.11"),
    Release("2.5.1", "8.1.RC1", "3.9-3.11"),
    Release("2.6.0.post5", "8.5.0", "3.9-3.11"),
    Release("2.7.1.post8", "9.1.0", "3.9-3.13"),
    Release("2.8.0.post4", "9.0.0", "3.9-3.13"),
    Release("2.9.0.post6", "9.1.0", "3.10-3.13"),
    Release("2.10.0.post4", "9.1.0", "3.10-3.13"),
    Release("2.11.0", "9.1.0", "3.10-3.14"),
    Release("2.12.0", "9.1.0", "3.10-3.14"),
    Release("2.13.0", "9.1.0", "3.10-3.14"),
)

READY = "ready"
NO_PLUGIN = "no plugin"
OTHER_TORCH = "plugin of another torch"
TWO_ACCELERATORS = "two accelerators"
NO_CANN = "plugin but no CANN"
NO_CARD = "no card"


@dataclass(frozen=True, kw_only=True)
class Ascend:
    """State of the Ascend installation."""

    state: str
    """One of the states above."""
    reason: str
    """Error of importing the plugin."""
    torch: str
    plugin: str | None
    cann: str | None
    cann_folder: str | None
    driver: str | None
    cards: list[dict[str, str]]
    """Index, name and health of each card, from npu-smi."""
    device_files: list[str]
    fits: Release | None
    """The release for this torch version."""

    @property
    def fix(self) -> str:
        """Command for the next step towards a working NPU; empty if it works."""
        return _fix(self)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return {**asdict(self), "mend": self.fix, "fits": self.fits._asdict() if self.fits else None}


def examine() -> Ascend:
    """Check plugin, CANN, driver and cards. npu-smi is run if it is installed."""
    import torch

    count, reason = device.count_available(device.NPU)
    plugin = _plugin_version()
    folder, cann = _cann()
    cards, npu_smi_driver = tools.npu_smi()
    torch_version = str(torch.__version__)
    state = _state(count, reason, plugin, torch_version, torch.version.cuda is not None)
    fits = next((item for item in RELEASES if _base(item.plugin) == _base(torch_version)), None)
    return Ascend(
        state=state,
        reason=reason,
        torch=torch_version,
        plugin=plugin,
        cann=cann,
        cann_folder=folder,
        driver=_version_in(Path(_DRIVER)) or npu_smi_driver,
        cards=cards,
        device_files=sorted(glob.glob(_DEVICE_FILES)),
        fits=fits,
    )


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


def _fix(ascend: Ascend) -> str:
    """Return the command, followed by the reason in parentheses."""
    base = _base(ascend.torch)
    if ascend.state == READY:
        return ""
    if ascend.state == TWO_ACCELERATORS:
        return (
            f"pip install --force-reinstall torch=={base} {_CPU_TORCH}   (this torch is built for CUDA; "
            f"{PLUGIN} requires the CPU build)"
        )
    if ascend.state in (NO_PLUGIN, OTHER_TORCH):
        return _plugin_command(ascend)
    if ascend.state == NO_CANN:
        if ascend.cann_folder is not None:
            script = Path(ascend.cann_folder).parent / "set_env.sh"
            version = ascend.cann or ""
            return f"source {script}   (CANN {version} is installed, its libraries are not on the path)"
        version = ascend.fits.cann if ascend.fits else "from the vendor's table"
        return (
            f"install CANN {version} (toolkit and kernels for your chip, hiascend.com/software/cann) or use "
            f"an image with CANN, then: source {Path(_CANN_FOLDERS[0]).parent}/set_env.sh"
        )
    visible = os.environ.get("ASCEND_RT_VISIBLE_DEVICES")
    if visible is not None and (not visible.strip() or ascend.device_files):
        return f"unset ASCEND_RT_VISIBLE_DEVICES   (its value {visible!r} hides the cards)"
    closed = [path for path in ascend.device_files if not os.access(path, os.R_OK | os.W_OK)]
    if closed:
        return f"sudo usermod -aG HwHiAiUser $USER   (and log in again: you have no access to {closed[0]})"
    if ascend.device_files:
        return "npu-smi info   (device files exist; the driver or a card is not healthy)"
    return (
        "ls /dev/davinci*   (no device file: install the driver of the card, or start the container with "
        "--device /dev/davinci0 --device /dev/davinci_manager --device /dev/devmm_svm --device /dev/hisi_hdc)"
    )


def _plugin_command(ascend: Ascend) -> str:
    """Return the command that installs a matching plugin, or a torch version that has one."""
    if not (sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64")):
        return f"use Linux on x86_64 or aarch64, not {sys.platform} {platform.machine()}: {PLUGIN} needs it"
    packages = "pyyaml attrs decorator psutil scipy"
    if ascend.fits is not None:
        return f"pip install torch-npu=={ascend.fits.plugin} {packages}"
    release = RELEASES[-1]
    return (
        f"pip install torch=={_base(release.plugin)} {_CPU_TORCH} && "
        f"pip install torch-npu=={release.plugin} {packages}   "
        f"({PLUGIN} does not support torch {ascend.torch})"
    )


def _base(version: str) -> str:
    """Return `2.13.0` for `2.13.0+cpu` or `2.13.0.post2`."""
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
    """Return folder and version of CANN."""
    from_variables = [os.environ[name] for name in _TOOLKITS if os.environ.get(name)]
    for folder in map(Path, (*from_variables, *map(os.path.expanduser, _CANN_FOLDERS))):
        if folder.is_dir():
            files = (*folder.glob("version.cfg"), *folder.glob("*-linux/ascend_toolkit_install.info"))
            return str(folder), next(filter(None, map(_version_in, files)), None)
    return None, None


def _version_in(file: Path) -> str | None:
    """Return the first version in one of the vendor's version files."""
    try:
        text = file.read_text(errors="replace")
    except OSError:
        return None
    named = re.search(r"version\w*\s*=\s*\[?([0-9][\w.]*)", text, re.IGNORECASE)
    return named[1] if named else None
