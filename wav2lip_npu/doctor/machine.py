"""What this machine has of all that the package can use: versions, devices, codecs, detectors, weights."""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from wav2lip_npu import __version__, device
from wav2lip_npu.ascend import installation as ascend
from wav2lip_npu.ascend.installation import Ascend
from wav2lip_npu.doctor import device_check
from wav2lip_npu.errors import DeviceError
from wav2lip_npu.faces.detectors import weights_files
from wav2lip_npu.models.bundled import STARTER, weights_path
from wav2lip_npu.models.numerics import Difference
from wav2lip_npu.storage.hashing import sha256_of

log = logging.getLogger(__name__)

_PACKAGES = (
    "torch", "numpy", "opencv-python", "opencv-python-headless", "av", "dlib-bin", "face-alignment",
    "safetensors", "tensorboard", "tyro", "onnx", "onnxruntime",
)  # fmt: skip
_WEIGHTS = Path("checkpoints")
_SUFFIXES = (".pth", ".pt", ".safetensors")
_CODECS = {"libx264": "w", "h264": "r", "hevc": "r", "vp9": "r", "av1": "r", "aac": "w", "ffv1": "w"}


@dataclass(frozen=True, kw_only=True)
class Installation:
    """Everything that a support ticket needs."""

    python: str
    system: str
    packages: dict[str, str]
    ffmpeg: dict[str, str]
    """Libraries of FFmpeg inside PyAV, and their versions."""
    missing_codecs: list[str]
    ascend: Ascend
    kinds: dict[str, str]
    """What can be said of each kind of device."""
    device: str | None
    """In words what --device means here, none if it cannot be used."""
    refused: str | None
    """Why it cannot be used."""
    free_bytes: int | None
    total_bytes: int | None
    weights: dict[str, dict[str, Any]]
    """Size and SHA-256 of what can be dubbed, judged or found faces with, by path."""
    detectors: dict[str, str]
    differences: list[Difference]
    """Of the device from the CPU; empty on a CPU."""
    failed: str | None
    """What the device raised while it was compared."""

    @property
    def is_sound(self) -> bool:
        """Whether the device that was asked for can be used and computes what the CPU does."""
        return not (self.refused or self.failed or self.missing_codecs) and all(
            each.is_small for each in self.differences
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        differences = [each.as_dict() for each in self.differences]
        whole = {"version": __version__, **self.__dict__, "ascend": self.ascend.as_dict()}
        return {**whole, "differences": differences, "ok": self.is_sound}

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        found = self.ascend
        yield f"wav2lip-npu {__version__}, Python {self.python}, {self.system}"
        yield ", ".join(f"{name} {version}" for name, version in self.packages.items())
        yield "ffmpeg inside: " + ", ".join(f"{name} {version}" for name, version in self.ffmpeg.items())
        if self.missing_codecs:
            missing = ", ".join(self.missing_codecs)
            yield f"codecs that are missing: {missing}. pip install --force-reinstall av"
        yield (
            f"Ascend: {found.state}; {ascend.PLUGIN} {found.plugin or 'not installed'}, CANN "
            f"{found.cann or found.cann_folder or 'not found'}, driver {found.driver or 'not found'}"
        )
        if found.fits is not None:
            plugin, cann, python = found.fits
            yield f"  goes with torch {found.torch}: torch-npu {plugin}, CANN {cann}, Python {python}"
        for card in found.cards:
            yield f"  card {card['index']}: {card['name']}, {card['health']}"
        if found.reason and found.plugin:
            yield f"  it says: {found.reason}"
        if found.mend:
            yield f"  to use an NPU: {found.mend}"
        yield from (f"{kind}: {words}" for kind, words in self.kinds.items())
        if self.refused is not None:
            yield f"device: {self.refused}"
        elif self.free_bytes is not None and self.total_bytes is not None:
            free, total = self.free_bytes / 1e9, self.total_bytes / 1e9
            yield f"device: {self.device}, {free:.1f} of {total:.1f} GB free"
        yield from (f"face detector {name}: {words}" for name, words in self.detectors.items())
        for path, each in self.weights.items():
            yield f"weights {path}: {each['bytes'] / 1e6:.1f} MB, sha256 {each['sha256'][:16]}"
        if self.failed is not None:
            yield f"compared with the CPU: {self.failed}"
        elif self.differences:
            yield "compared with the CPU:"
            yield from (f"  {each}" for each in self.differences)


def examine(spec: str = "auto") -> Installation:
    """Look at everything; compare the device with the CPU where it is another one. Nothing is changed."""
    import av

    try:
        place, refused = device.resolve(spec), None
        device.activate(place)
        free, total = device.memory(place)
    except (DeviceError, RuntimeError) as error:
        place, refused, free, total = None, str(error), None, None
    differences, failed = [], None
    if place is not None and place.type != device.HOST:
        try:
            differences = device_check.compare_with_cpu(place)
        except RuntimeError as error:  # what the driver or an operator says, whatever it is
            failed = " ".join(str(error).split())
    return Installation(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        packages=_versions(),
        ffmpeg={name: ".".join(map(str, version)) for name, version in av.library_versions.items()},
        missing_codecs=[name for name, mode in _CODECS.items() if not _has_codec(name, mode)],
        ascend=ascend.examine(),
        kinds={kind: _in_words(kind) for kind in device.BACKENDS},
        device=device.describe(place) if place else None,
        refused=refused,
        free_bytes=free,
        total_bytes=total,
        weights={str(path): {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in _weights()},
        detectors=_detectors(),
        differences=differences,
        failed=failed,
    )


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _has_codec(name: str, mode: str) -> bool:
    import av

    try:
        av.codec.Codec(name, mode)  # type: ignore[arg-type]
    except ValueError:
        return False
    return True


def _in_words(kind: str) -> str:
    count, reason = device.count_available(kind)
    return f"{count} found" if count else f"none found{reason and f' ({reason})'}"


def _weights() -> list[Path]:
    """The starter's files, the detectors', and what lies in checkpoints/."""
    mine = sorted(path for path in _WEIGHTS.glob("*") if path.suffix in _SUFFIXES)
    starter = [weights_path(STARTER, kind) for kind in ("generator", "syncnet")]
    faces = [path for files in weights_files().values() for path in files]
    return [path for path in dict.fromkeys([*starter, *mine, *faces]) if path.is_file()]


def _detectors() -> dict[str, str]:
    words = {}
    for name, files in weights_files().items():
        missing = [str(path) for path in files if not path.is_file()]
        words[name] = f"lacks {', '.join(missing)}" if missing else "ready"
    return words
