"""The same inputs through two engines or devices: how far apart the outputs are, and how long each takes."""

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

from wav2lip_npu import device as devices
from wav2lip_npu.ascend import tools
from wav2lip_npu.errors import CheckpointMismatchError, UsageError
from wav2lip_npu.export.engines import Arrays, Session, file_session, in_batches, offline_session
from wav2lip_npu.export.manifest import OM, ONNX, About, read_beside, read_onnx
from wav2lip_npu.export.onnx_export import (
    Weights,
    compile_command,
    examples,
    export,
    named_outputs,
    outputs_of,
    write_beside,
)
from wav2lip_npu.export.onnx_graph import DYNAMIC_SIZE
from wav2lip_npu.models.checkpoint import published_kind
from wav2lip_npu.models.networks import fold_norms
from wav2lip_npu.models.numerics import TOLERANCES, Difference, compare_runs

_COMPARED = 4
"""Items of a batch whose outputs are compared, of noise and of what is shown in use each."""


@dataclass(frozen=True)
class Side:
    """One of the two, for one network."""

    name: str
    run: Session
    numbers: str
    """How exact it is: a key of `numerics.TOLERANCES`."""
    size: tuple[int, int] = DYNAMIC_SIZE
    """Of the pictures for S3FD."""


@dataclass(frozen=True)
class Pace:
    """Seconds for a batch on either side, from the host and back to it: the median."""

    batch: int
    seconds: tuple[float, float]


@dataclass(frozen=True)
class Compared:
    """What was found of one network."""

    network: str
    sides: tuple[str, str]
    differences: list[Difference]
    """Of the second side from the first, for each output."""
    paces: list[Pace]

    @property
    def is_small(self) -> bool:
        """Whether the differences are rounding."""
        return all(each.is_small for each in self.differences)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "network": published_kind(self.network),
            "sides": self.sides,
            "differences": [each.as_dict() for each in self.differences],
            "seconds": [{"batch": each.batch, "seconds": each.seconds} for each in self.paces],
        }


class Sides:
    """Makes sides of words: a device, `onnx`, `om`, or the path of an exported file, which is opened at once.

    Raises `CheckpointError`, `DeviceError` or `UsageError` for what is wrong with a word.
    """

    def __init__(self, words: Sequence[str], precision: str = "fp32", chip: str | None = None) -> None:
        devices.dtype_of(precision)
        self._precision, self._chip = precision, chip
        self._files: dict[str, tuple[About, Session]] = {}
        for word in words:
            if word.lower().endswith((f".{ONNX}", f".{OM}")):
                self._files[word] = _open(word)
            elif word not in (ONNX, OM):
                devices.resolve(word)

    @property
    def networks(self) -> set[str]:
        """The networks that the files are of; empty when there is no file."""
        return {about.network for about, _ in self._files.values()}

    def __call__(self, word: str, weights: Weights, batch: int) -> Side:
        """The side of a word for one network; where it must be of one batch size it is of `batch`."""
        if word in self._files:
            about, run = self._files[word]
            _check_origin(word, about, weights)
            return _side_of_file(
                f"{os.path.basename(word)} {about.precision}", about, run, word.lower().endswith(OM)
            )
        if word in (ONNX, OM):
            return self._exported(word, weights, batch)
        return self._on_device(devices.resolve(word), weights)

    def _on_device(self, place: torch.device, weights: Weights) -> Side:
        """PyTorch, batch norms folded, as a dub runs it but in one batch at a time."""
        devices.activate(place)
        strict = self._precision == "fp32_strict"
        if strict:
            devices.full_float32(place)
        numbers, layout = devices.dtype_of(self._precision), devices.memory_format(place)
        module = copy.deepcopy(weights.module)
        fold_norms(module)
        module.to(place, numbers, memory_format=layout)  # type: ignore[call-overload]

        def run(arrays: Arrays) -> list[Any]:
            given = [torch.from_numpy(each).to(place, numbers) for each in arrays.values()]
            given = [each.contiguous(memory_format=layout) for each in given]
            return [each.float().cpu().numpy() for each in outputs_of(weights.network, module, given)]

        # An accelerator multiplies float32 with the mantissa of fp16 unless it is told not to.
        exact = numbers == torch.float32 and (strict or place.type == devices.HOST)
        rough = "bf16" if self._precision == "bf16" else "fp16"
        return Side(f"{devices.describe(place)} {self._precision}", run, "off" if exact else rough)

    def _exported(self, word: str, weights: Weights, batch: int) -> Side:
        """A file that is made for this and thrown away."""
        chip = self._chip or tools.chip_name() if word == OM else None
        if word == OM and chip is None:
            raise UsageError(f"for which chip is {OM}? Pass --chip Ascend310P3, or an .om file in its place.")
        precision = "fp16" if self._precision == "fp16" else "fp32"
        size = DYNAMIC_SIZE if weights.network == "s3fd" and chip else None
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{weights.network}.{ONNX}"
            made = export(weights, path, precision=precision, batch=batch if chip else None, size=size)
            if chip is not None:
                path = path.with_suffix(f".{OM}")
                write_beside(made)
                if not tools.run_atc(compile_command(made, chip), path):
                    raise UsageError(f"there is no atc to make an {OM} file. Pass one in its place.")
            about, run = _open(os.fspath(path))
        return _side_of_file(f"{word} {precision}", about, run, word == OM)


def _open(path: str) -> tuple[About, Session]:
    """What an exported file tells of itself, and what runs it."""
    if path.lower().endswith(f".{OM}"):
        about = read_beside(path)
        return about, offline_session(path, about, 0)
    model, about = read_onnx(path)
    return about, file_session(path, model.SerializeToString())


def _check_origin(path: str, about: About, weights: Weights) -> None:
    if about.sha256 != weights.sha256:
        raise CheckpointMismatchError(
            f"{path} was made of {about.checkpoint} (sha256 {about.sha256[:12]}), not of {weights.source} "
            f"(sha256 {weights.sha256[:12]}). Pass the weights that it was made of."
        )


def _side_of_file(name: str, about: About, run: Session, is_om: bool) -> Side:
    rough = about.precision == "fp16" or is_om
    size = about.inputs["image"][2:] if about.network == "s3fd" and about.batch else DYNAMIC_SIZE
    return Side(
        name + (f" b{about.batch}" if about.batch else ""),
        lambda arrays: in_batches(run, about.batch, arrays),
        "fp16" if rough else "off",
        (int(size[0]), int(size[1])),
    )


def compare(weights: Weights, a: Side, b: Side, *, batches: Sequence[int], runs: int = 5) -> Compared:
    """Compare two sides of a network, and take their time at each batch size; they take turns."""
    size = next((each.size for each in (a, b) if each.size != DYNAMIC_SIZE), DYNAMIC_SIZE)
    tolerance = max(TOLERANCES[side.numbers][0] for side in (a, b))
    inputs = examples(weights.network, _COMPARED, size)
    first, second = (named_outputs(weights.network, side.run) for side in (a, b))
    differences = compare_runs(inputs, first, second, tolerance)
    paces = [Pace(batch, _paces(weights.network, a, b, batch, size, runs)) for batch in batches]
    return Compared(weights.network, (a.name, b.name), differences, paces)


def _paces(
    network: str, a: Side, b: Side, batch: int, size: tuple[int, int], runs: int
) -> tuple[float, float]:
    arrays = next(examples(network, batch, size))
    seconds: tuple[list[float], list[float]] = [], []
    for turn in range(runs + 1):
        for side, spent in zip((a, b), seconds, strict=True):
            start = perf_counter()
            side.run(arrays)
            if turn:  # the first does not count
                spent.append(perf_counter() - start)
    return statistics.median(seconds[0]), statistics.median(seconds[1])
