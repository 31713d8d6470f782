"""The `compare` command: its flags, and the table that it prints."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import tyro

from wav2lip_npu import __version__
from wav2lip_npu.cli.json_output import STDOUT, write_json
from wav2lip_npu.errors import UsageError
from wav2lip_npu.export.manifest import KINDS, network_of
from wav2lip_npu.media.video_writer import check_writable
from wav2lip_npu.models.bundled import STARTER

if TYPE_CHECKING:
    from wav2lip_npu.export.compare import Compared
    from wav2lip_npu.export.onnx_export import Weights

log = logging.getLogger(__name__)

_MOST = 256


@dataclass(frozen=True, kw_only=True)
class CompareCommand:
    """Run the same inputs through two engines or devices: how far apart they are, and how long each takes.

    wav2lip-npu compare cpu npu
    wav2lip-npu compare cpu onnx --checkpoint_path wav2lip.pth
    wav2lip-npu compare exported/generator_b8.onnx exported/generator_b8.om --checkpoint_path wav2lip.pth
    """

    a: tyro.conf.Positional[str]
    """cpu, npu, npu:1, cuda, onnx, om, or a file that export wrote."""
    b: tyro.conf.Positional[str]
    """The same, of what is compared with it."""
    checkpoint_path: str = STARTER
    """Weights of a generator. (default: those of the package)"""
    syncnet_checkpoint_path: str = STARTER
    """Weights of a SyncNet. (default: those of the package)"""
    network: tuple[str, ...] = ()
    """generator, syncnet, s3fd. (default: that of a file, else the first two, and s3fd if its weights are
    there)"""
    batch: tuple[int, ...] = (1, 8, 32)
    """Batch sizes whose time is taken."""
    runs: int = 5
    """Runs of each, after one that does not count; the median is told."""
    precision: str = "fp32"
    """Numbers of PyTorch's networks: fp32, bf16, fp16 or fp32_strict; with fp16 of what is exported too."""
    chip: str | None = None
    """For om without a file: the chip as atc calls it, Ascend310P3. (default: npu-smi's)"""
    json: str | None = None
    """Write everything that was found to this JSON file; without a name, or with -, to standard output."""

    def run(self) -> int:
        """Compare, and print a table: 1 when there is more than rounding between them."""
        log.info("wav2lip-npu %s", __version__)
        self._check()
        from wav2lip_npu.export.compare import Sides, compare

        sides = Sides((self.a, self.b), self.precision, self.chip)
        found: list[Compared] = []
        for weights in self._weights(sides.networks):
            log.info("%s: %s", weights.network, weights.source)
            a, b = (sides(word, weights, max(self.batch)) for word in (self.a, self.b))
            found.append(compare(weights, a, b, batches=self.batch, runs=self.runs))
        self._tell(found)
        return 0 if all(each.is_small for each in found) else 1

    def _check(self) -> None:
        """Raise `UsageError` when flags are wrong."""
        if odd := [each for each in self.network if network_of(each) not in KINDS]:
            raise UsageError(f"unknown --network {odd[0]!r}. Pass {', '.join(KINDS)}.")
        if not self.batch or any(not 1 <= each <= _MOST for each in self.batch):
            raise UsageError(f"--batch {' '.join(map(str, self.batch))}: pass sizes of 1 to {_MOST}.")
        if self.runs < 1:
            raise UsageError(f"--runs {self.runs} is not at least 1.")
        if self.json not in (None, STDOUT):
            check_writable(self.json)

    def _weights(self, of_files: set[str]) -> Iterator[Weights]:
        """The networks to compare, loaded one after the other."""
        from wav2lip_npu.export.onnx_export import load_weights
        from wav2lip_npu.faces.detectors import weights_files

        if len(of_files) > 1:
            raise UsageError(f"{self.a} and {self.b} are not of the same network. Pass two of one.")
        names = tuple(map(network_of, self.network)) or tuple(of_files) or ("generator", "syncnet", "s3fd")
        if of_files and set(names) != of_files:
            raise UsageError(f"the file is of the network {', '.join(of_files)}. Leave --network out.")
        for name in dict.fromkeys(names):
            if name == "s3fd" and not self.network and not weights_files()["s3fd"][0].is_file():
                continue
            paths = {"generator": self.checkpoint_path, "syncnet": self.syncnet_checkpoint_path}
            yield load_weights(name, paths.get(name, STARTER))

    def _tell(self, found: list[Compared]) -> None:
        as_json: dict[str, Any] = {
            "version": __version__,
            "a": self.a,
            "b": self.b,
            "networks": [each.as_dict() for each in found],
            "ok": all(each.is_small for each in found),
        }
        if self.json is not None:
            write_json(as_json, self.json)
        if self.json != STDOUT:
            sys.stdout.write("\n".join(line for each in found for line in _table(each)) + "\n")


def _table(found: Compared) -> Iterator[str]:
    a, b = found.sides
    yield f"{found.network}: A is {a}, B is {b}"
    yield from (f"  {each}" for each in found.differences)
    yield f"  {'batch':>7} {'A, ms':>10} {'B, ms':>10} {'B / A':>7}"
    for each in found.paces:
        first, second = (1000 * seconds for seconds in each.seconds)
        yield f"  {each.batch:>7} {first:>10.2f} {second:>10.2f} {second / first:>7.2f}"
