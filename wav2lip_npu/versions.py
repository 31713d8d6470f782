"""Versions of this package, of Python, and of the libraries that affect the output."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from wav2lip_npu import __version__

_PACKAGES = (
    "torch", "torch-npu", "onnxruntime", "av", "opencv-python", "numpy", "dlib-bin",
    "face-alignment",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Return the installed versions by package name; packages that are not installed are left out."""
    installed = {"wav2lip-npu": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed
