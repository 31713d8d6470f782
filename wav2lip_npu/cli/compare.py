"""The `compare` command."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import tyro

from wav2lip_npu import __version__
from wav2lip_npu.cli.json_output import STDOUT, json_outputs, write_json
from wav2lip_npu.devices.number_formats import Precision
from wav2lip_npu.errors import UsageError
from wav2lip_npu.export.options import MAX_BATCH, NETWORKS, is_exported, network_named
from wav2lip_npu.faces.detectors import detector_inputs
from wav2lip_npu.models.bundled import STARTER, weights_inputs
from wav2lip_npu.models.plan_choice import AudioRefineOption, Design
from wav2lip_npu.storage.outputs import InputPath, check_outputs

if TYPE_CHECKING:
    from wav2lip_npu.export.compare import Comparison
    from wav2lip_npu.export.onnx_export import LoadedNetwork

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CompareCommand:
    """Compare two engines or devices on the same inputs: output differences and time per batch.

    wav2lip-npu compare cpu npu

    wav2lip-npu compare cpu onnx --checkpoint_path wav2lip.pth

    wav2lip-npu compare exported/generator_b8.onnx exported/generator_b8.om --checkpoint_path wav2lip.pth
    """

    a: tyro.conf.Positional[str]
    """cpu, npu, npu:1, cuda, onnx, om, or an exported file."""
    b: tyro.conf.Positional[str]
    """What to compare it with: any of the same."""
    checkpoint_path: str = STARTER
    """Generator weights. starter: the bundled network."""
    syncnet_checkpoint_path: str = STARTER
    """SyncNet weights. starter: the bundled network."""
    network: tuple[Literal["generator", "syncnet", "expert", "s3fd", "retinaface"], ...] = ()
    """Networks to compare; expert is the former name of syncnet. If not given: the network of an exported
    file, else generator, syncnet, retinaface, and s3fd if its weights are installed."""
    batch: tuple[int, ...] = (1, 8, 32)
    """Batch sizes to time."""
    runs: int = 5
    """Timed runs per batch size, after a warm-up. The median is reported."""
    precision: Precision = "fp32"
    """Number format of PyTorch; fp16 also applies to files exported for the comparison."""
    face_size: int | None = None
    """Size of the faces in pixels, for generator weights that fit several: 192 or 384. None: as published."""
    audio_refine: AudioRefineOption = "auto"
    """Whether a generator uses its layers audio_refine; auto: measured in the weights, see docs/hd.md."""
    chip: str | None = None
    """Chip for om, by its atc name, such as Ascend310P3. None: the first chip that npu-smi lists."""
    json: str | None = None
    """Write all results to this JSON file; without a file name, or with -, to standard output."""

    def __post_init__(self) -> None:
        """Raise `UsageError` if an option is out of range."""
        if not self.batch or any(not 1 <= batch <= MAX_BATCH for batch in self.batch):
            raise UsageError(f"--batch {' '.join(map(str, self.batch))}: pass sizes of 1 to {MAX_BATCH}.")
        if self.runs < 1:
            raise UsageError(f"--runs {self.runs} is out of range. Pass at least 1.")

    def run(self) -> int:
        """Compare and print a table. Return 1 if a difference exceeds rounding."""
        log.info("wav2lip-npu %s", __version__)
        check_outputs(json_outputs(self.json), self._inputs())
        from wav2lip_npu.export.compare import SideLoader, compare

        loader = SideLoader((self.a, self.b), self.precision, self.chip)
        comparisons: list[Comparison] = []
        for loaded in self._load_networks(loader.networks):
            log.info("%s: %s", loaded.network, loaded.source)
            a, b = (loader.side(name, loaded, max(self.batch)) for name in (self.a, self.b))
            comparisons.append(compare(loaded, a, b, batches=self.batch, runs=self.runs))
        self._report(comparisons)
        return 0 if all(comparison.is_small for comparison in comparisons) else 1

    def _inputs(self) -> list[InputPath]:
        """Return the files that the command reads."""
        files = [name for name in (self.a, self.b) if is_exported(name)]
        return [
            *(item for name in files for item in weights_inputs("exported file", name)),
            *weights_inputs("--checkpoint_path", self.checkpoint_path),
            *weights_inputs("--syncnet_checkpoint_path", self.syncnet_checkpoint_path, "syncnet"),
            *detector_inputs(),
        ]

    def _load_networks(self, file_networks: set[str]) -> Iterator[LoadedNetwork]:
        """Yield the networks to compare, loaded one at a time."""
        from wav2lip_npu.export.onnx_export import load_network
        from wav2lip_npu.faces.detectors import weights_files

        if len(file_networks) > 1:
            raise UsageError(
                f"{self.a} and {self.b} hold different networks. Pass two files of the same network."
            )
        names = tuple(map(network_named, self.network)) or tuple(file_networks) or NETWORKS
        if file_networks and set(names) != file_networks:
            raise UsageError(
                f"the exported file holds the network {', '.join(file_networks)}. Remove --network."
            )
        paths = {"generator": self.checkpoint_path, "syncnet": self.syncnet_checkpoint_path}
        for name in dict.fromkeys(names):
            if name == "s3fd" and not self.network and not weights_files()["s3fd"][0].is_file():
                continue
            yield load_network(name, paths.get(name, STARTER), Design(self.face_size, self.audio_refine))

    def _report(self, comparisons: list[Comparison]) -> None:
        as_json: dict[str, Any] = {
            "version": __version__,
            "a": self.a,
            "b": self.b,
            "networks": [comparison.as_dict() for comparison in comparisons],
            "ok": all(comparison.is_small for comparison in comparisons),
        }
        if self.json is not None:
            write_json(as_json, self.json)
        if self.json != STDOUT:
            sys.stdout.write(
                "\n".join(line for comparison in comparisons for line in _table(comparison)) + "\n"
            )


def _table(comparison: Comparison) -> Iterator[str]:
    a, b = comparison.sides
    yield f"{comparison.network}: A is {a}, B is {b}"
    yield from (f"  {difference}" for difference in comparison.differences)
    yield f"  {'batch':>7} {'A, ms':>10} {'B, ms':>10} {'B / A':>7}"
    for timing in comparison.timings:
        first, second = (1000 * seconds for seconds in timing.seconds)
        yield f"  {timing.batch:>7} {first:>10.2f} {second:>10.2f} {second / first:>7.2f}"
