"""Compare two engines or devices on the same inputs: output differences and time per batch."""

from __future__ import annotations

import copy
import os
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from wav2lip_npu import signals
from wav2lip_npu.ascend import tools
from wav2lip_npu.devices import device as devices
from wav2lip_npu.devices import number_formats
from wav2lip_npu.errors import CheckpointMismatchError, UsageError
from wav2lip_npu.export.engines import Arrays, Session, make_file_session, make_om_session, run_in_batches
from wav2lip_npu.export.manifest import Manifest, read_om_manifest, read_onnx
from wav2lip_npu.export.om_export import compile_om
from wav2lip_npu.export.onnx_export import (
    LoadedNetwork,
    example_inputs,
    named_outputs,
    run_module,
    write_onnx,
)
from wav2lip_npu.export.onnx_graph import DYNAMIC_SIZE, image_size
from wav2lip_npu.export.options import DETECTORS, OM, ONNX, ExportOptions, is_exported
from wav2lip_npu.models.checkpoint import published_kind
from wav2lip_npu.models.networks import fold_norms
from wav2lip_npu.models.numerics import TOLERANCES, Difference, compare_runs

_COMPARED = 4
"""Batch size of the inputs whose outputs are compared."""


@dataclass(frozen=True)
class Side:
    """One side of the comparison, for one network."""

    name: str
    run: Session
    amp: str
    """Number format of the computation: a key of `numerics.TOLERANCES`."""
    size: tuple[int, int] = DYNAMIC_SIZE
    """Height and width of the images for a detector."""


@dataclass(frozen=True)
class Timing:
    """Median seconds per batch of both sides, including the copies to and from the device."""

    batch: int
    seconds: tuple[float, float]


@dataclass(frozen=True)
class Comparison:
    """Differences and timings of one network."""

    network: str
    sides: tuple[str, str]
    differences: list[Difference]
    """Differences of the second side from the first, one per output."""
    timings: list[Timing]

    @property
    def is_small(self) -> bool:
        """Whether all differences are within rounding."""
        return all(difference.is_small for difference in self.differences)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return {
            "network": published_kind(self.network),
            "sides": self.sides,
            "differences": [difference.as_dict() for difference in self.differences],
            "seconds": [{"batch": timing.batch, "seconds": timing.seconds} for timing in self.timings],
        }


class SideLoader:
    """Creates sides by name: a device, `onnx`, `om`, or an exported file, which is opened immediately.

    Raises `CheckpointError`, `DeviceError` or `UsageError` if a name cannot be used.
    """

    def __init__(self, names: Sequence[str], precision: str = "fp32", chip: str | None = None) -> None:
        number_formats.dtype_of(precision)
        self._precision, self._chip = precision, chip
        self._files: dict[str, tuple[Manifest, Session]] = {}
        for name in names:
            if is_exported(name):
                self._files[name] = _open(name)
            elif name not in (ONNX, OM):
                devices.resolve(name)

    @property
    def networks(self) -> set[str]:
        """Networks of the files; empty if neither side is a file."""
        return {manifest.network for manifest, _ in self._files.values()}

    def side(self, name: str, loaded: LoadedNetwork, batch: int) -> Side:
        """Return a side for a network. `batch` is the size of a temporary .om file."""
        if name in self._files:
            manifest, run = self._files[name]
            _check_source(name, manifest, loaded)
            label = f"{os.path.basename(name)} {manifest.precision}"
            return _file_side(label, manifest, run, name.lower().endswith(OM))
        if name in (ONNX, OM):
            return self._export(name, loaded, batch)
        return self._on_device(devices.resolve(name), loaded)

    def _on_device(self, device: torch.device, loaded: LoadedNetwork) -> Side:
        """Return PyTorch with folded batch norms, as in a dub."""
        devices.activate(device)
        strict = self._precision == "fp32_strict"
        if strict:
            number_formats.full_float32(device)
        dtype, layout = number_formats.dtype_of(self._precision), devices.memory_format(device)
        module = copy.deepcopy(loaded.module)
        fold_norms(module)
        module.to(device, dtype, memory_format=layout)  # type: ignore[call-overload]

        def run(arrays: Arrays) -> list[Any]:
            inputs = [torch.from_numpy(array).to(device, dtype) for array in arrays.values()]
            inputs = [tensor.contiguous(memory_format=layout) for tensor in inputs]
            return [output.float().cpu().numpy() for output in run_module(loaded.network, module, inputs)]

        # Accelerators multiply float32 with reduced precision unless full_float32 is on.
        exact = dtype == torch.float32 and (strict or device.type == devices.HOST)
        reduced = "bf16" if self._precision == "bf16" else "fp16"
        return Side(f"{devices.describe(device)} {self._precision}", run, "off" if exact else reduced)

    def _export(self, name: str, loaded: LoadedNetwork, batch: int) -> Side:
        """Return a side that runs a temporary exported file."""
        chip = self._chip or tools.chip_name() if name == OM else None
        if name == OM and chip is None:
            raise UsageError("om needs a chip. Pass --chip Ascend310P3, or an .om file instead of om.")
        options = ExportOptions(
            network=loaded.network,  # type: ignore[arg-type]
            precision="fp16" if self._precision == "fp16" else "fp32",
            batch=batch if chip else None,
            size=DYNAMIC_SIZE if loaded.network in DETECTORS and chip else None,
        )
        with tempfile.TemporaryDirectory() as folder:
            exported = write_onnx(loaded, Path(folder) / f"{loaded.network}.{ONNX}", options)
            path = exported.path if chip is None else compile_om(exported, chip)
            if path is None:
                raise UsageError("om needs atc on the PATH. Pass an .om file instead of om.")
            manifest, run = _open(os.fspath(path))
        return _file_side(f"{name} {options.precision}", manifest, run, name == OM)


def _open(path: str) -> tuple[Manifest, Session]:
    """Return the manifest and a session of an exported file."""
    if path.lower().endswith(f".{OM}"):
        manifest = read_om_manifest(path)
        return manifest, make_om_session(path, manifest, 0)
    model, manifest = read_onnx(path)
    return manifest, make_file_session(path, model.SerializeToString())


def _check_source(path: str, manifest: Manifest, loaded: LoadedNetwork) -> None:
    if manifest.sha256 != loaded.sha256:
        raise CheckpointMismatchError(
            f"{path} was exported from {manifest.checkpoint} (sha256 {manifest.sha256[:12]}), not from "
            f"{loaded.source} (sha256 {loaded.sha256[:12]}). Pass the weights that it was exported from."
        )


def _file_side(name: str, manifest: Manifest, run: Session, is_om: bool) -> Side:
    amp = "fp16" if is_om else {"fp32": "off"}.get(manifest.precision, manifest.precision)
    images = manifest.inputs.get("image" if manifest.network in DETECTORS else "face", [])[2:]
    is_fixed = images and all(isinstance(side, int) for side in images)
    height, width = images if is_fixed else DYNAMIC_SIZE
    return Side(
        name + (f" b{manifest.batch}" if manifest.batch else ""),
        lambda arrays: run_in_batches(run, manifest.batch, arrays),
        amp,
        (int(height), int(width)),
    )


def compare(loaded: LoadedNetwork, a: Side, b: Side, *, batches: Sequence[int], runs: int = 5) -> Comparison:
    """Compare the outputs of two sides, then time both at each batch size in alternation."""
    fixed = (side.size for side in (a, b) if side.size != DYNAMIC_SIZE)
    size = next(fixed, image_size(loaded.module))
    tolerance = max(TOLERANCES[side.amp][0] for side in (a, b))
    inputs = example_inputs(loaded.network, _COMPARED, size)
    expected, measured = (named_outputs(loaded.network, side.run) for side in (a, b))
    differences = compare_runs(inputs, expected, measured, tolerance)
    timings = [Timing(batch, _time(loaded.network, a, b, batch, size, runs)) for batch in batches]
    return Comparison(loaded.network, (a.name, b.name), differences, timings)


def _time(
    network: str, a: Side, b: Side, batch: int, size: tuple[int, int], runs: int
) -> tuple[float, float]:
    arrays = next(example_inputs(network, batch, size))
    seconds: tuple[list[float], list[float]] = [], []
    for turn in range(runs + 1):
        for side, times in zip((a, b), seconds, strict=True):
            signals.check()
            start = perf_counter()
            side.run(arrays)
            if turn:  # the first run is a warm-up
                times.append(perf_counter() - start)
    return statistics.median(seconds[0]), statistics.median(seconds[1])
