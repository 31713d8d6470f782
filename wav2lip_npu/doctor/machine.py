"""Check this machine: versions, devices, codecs, face detectors and weights."""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from wav2lip_npu import __version__
from wav2lip_npu.ascend import installation as ascend
from wav2lip_npu.ascend.installation import Ascend
from wav2lip_npu.devices import device, device_memory
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
class MachineReport:
    """Result of a machine check, with the information for a support ticket."""

    python: str
    system: str
    packages: dict[str, str]
    ffmpeg: dict[str, str]
    """Versions of the FFmpeg libraries inside PyAV."""
    missing_codecs: list[str]
    ascend: Ascend
    kinds: dict[str, str]
    """Description of each device type."""
    device: str | None
    """Description of the device that --device selects; None if it is unusable."""
    refused: str | None
    """Error of a device that is unusable."""
    free_bytes: int | None
    total_bytes: int | None
    weights: dict[str, dict[str, Any]]
    """Size and SHA-256 of each weights file, by path."""
    detectors: dict[str, str]
    differences: list[Difference]
    """Differences of the device from the CPU; empty on a CPU."""
    failed: str | None
    """Error of the device during the comparison."""

    @property
    def is_ok(self) -> bool:
        """Whether the device works and agrees with the CPU, and no codec is missing."""
        return not (self.refused or self.failed or self.missing_codecs) and all(
            difference.is_small for difference in self.differences
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        differences = [difference.as_dict() for difference in self.differences]
        fields = {"version": __version__, **self.__dict__, "ascend": self.ascend.as_dict()}
        return {**fields, "differences": differences, "ok": self.is_ok}

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        npu = self.ascend
        yield f"wav2lip-npu {__version__}, Python {self.python}, {self.system}"
        yield ", ".join(f"{name} {version}" for name, version in self.packages.items())
        yield "FFmpeg libraries: " + ", ".join(f"{name} {version}" for name, version in self.ffmpeg.items())
        if self.missing_codecs:
            missing = ", ".join(self.missing_codecs)
            yield f"missing codecs: {missing}. Run pip install --force-reinstall av"
        yield (
            f"Ascend: {npu.state}; {ascend.PLUGIN} {npu.plugin or 'not installed'}, CANN "
            f"{npu.cann or npu.cann_folder or 'not found'}, driver {npu.driver or 'not found'}"
        )
        if npu.fits is not None:
            plugin, cann, python = npu.fits
            yield f"  torch {npu.torch} needs torch-npu {plugin}, CANN {cann}, Python {python}"
        for card in npu.cards:
            yield f"  card {card['index']}: {card['name']}, {card['health']}"
        if npu.reason and npu.plugin:
            yield f"  error: {npu.reason}"
        if npu.fix:
            yield f"  to use an NPU: {npu.fix}"
        yield from (f"{kind}: {state}" for kind, state in self.kinds.items())
        if self.refused is not None:
            yield f"device: {self.refused}"
        elif self.free_bytes is not None and self.total_bytes is not None:
            free, total = self.free_bytes / 1e9, self.total_bytes / 1e9
            yield f"device: {self.device}, {free:.1f} of {total:.1f} GB free"
        yield from (f"face detector {name}: {state}" for name, state in self.detectors.items())
        for path, file in self.weights.items():
            yield f"weights {path}: {file['bytes'] / 1e6:.1f} MB, sha256 {file['sha256'][:16]}"
        if self.failed is not None:
            yield f"comparison with the CPU failed: {self.failed}"
        elif self.differences:
            yield "compared with the CPU:"
            yield from (f"  {difference}" for difference in self.differences)


def check_machine(spec: str = "auto") -> MachineReport:
    """Check this machine, and compare a device other than the CPU with the CPU."""
    import av

    try:
        selected, refused = device.resolve(spec), None
        device.activate(selected)
        free, total = device_memory.memory(selected)
    except (DeviceError, RuntimeError) as error:
        selected, refused, free, total = None, str(error), None, None
    differences, failed = [], None
    if selected is not None and selected.type != device.HOST:
        try:
            differences = device_check.compare_with_cpu(selected)
        except RuntimeError as error:  # from the driver or an operator
            failed = " ".join(str(error).split())
    return MachineReport(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        packages=_versions(),
        ffmpeg={name: ".".join(map(str, version)) for name, version in av.library_versions.items()},
        missing_codecs=[name for name, mode in _CODECS.items() if not _has_codec(name, mode)],
        ascend=ascend.examine(),
        kinds={kind: _count(kind) for kind in device.BACKENDS},
        device=device.describe(selected) if selected else None,
        refused=refused,
        free_bytes=free,
        total_bytes=total,
        weights={str(path): {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in _weights()},
        detectors=_detectors(),
        differences=differences,
        failed=failed,
    )


def _versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _has_codec(name: str, mode: str) -> bool:
    import av

    try:
        av.codec.Codec(name, mode)  # type: ignore[arg-type]
    except ValueError:
        return False
    return True


def _count(kind: str) -> str:
    count, reason = device.count_available(kind)
    return f"{count} found" if count else f"none found{reason and f' ({reason})'}"


def _weights() -> list[Path]:
    """Return the bundled weights, those of the detectors, and those in checkpoints/."""
    in_folder = sorted(path for path in _WEIGHTS.glob("*") if path.suffix in _SUFFIXES)
    bundled = [weights_path(STARTER, kind) for kind in ("generator", "syncnet")]
    faces = [path for files in weights_files().values() for path in files]
    return [path for path in dict.fromkeys([*bundled, *in_folder, *faces]) if path.is_file()]


def _detectors() -> dict[str, str]:
    states = {}
    for name, files in weights_files().items():
        missing = [str(path) for path in files if not path.is_file()]
        states[name] = f"missing weights: {', '.join(missing)}" if missing else "ready"
    return states
