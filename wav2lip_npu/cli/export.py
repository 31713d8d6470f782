"""The `export` command: its flags, and what it says of the files that it writes."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from wav2lip_npu import __version__
from wav2lip_npu.ascend import tools
from wav2lip_npu.errors import UsageError
from wav2lip_npu.export.manifest import KINDS, OM, ONNX, PRECISIONS, file_name, network_of
from wav2lip_npu.media.video_writer import check_writable
from wav2lip_npu.models.bundled import STARTER

if TYPE_CHECKING:
    from wav2lip_npu.export.onnx_export import Made, Weights

log = logging.getLogger(__name__)

_OM_BATCH = 8
_MOST = 256


@dataclass(frozen=True, kw_only=True)
class ExportCommand:
    """Write a network as an ONNX file, compared with PyTorch; or as an .om file for a chip, where atc is.

    wav2lip-npu export --checkpoint_path wav2lip.pth --batch 1 8 32
    wav2lip-npu export --checkpoint_path wav2lip.pth --format om --chip Ascend310P3
    """

    checkpoint_path: str = STARTER
    """Weights of the network: .pth, .pt or .safetensors. (default: those of the package; s3fd.pth where it
    is looked for)"""
    network: str = "generator"
    """generator, syncnet (or its former name, expert) or s3fd."""
    format: str = ONNX
    """onnx, or om, which the vendor's compiler atc makes of it."""
    batch: tuple[int, ...] = ()
    """Batch sizes, a file for each; 0 for a file that takes any. (default: 0, for om 8)"""
    precision: str = "fp32"
    """Numbers inside: fp32 or fp16. Inputs and outputs are float32."""
    size: tuple[int, int] | None = None
    """Height and width of the pictures that s3fd takes, a must with a batch size."""
    chip: str | None = None
    """As atc calls it: Ascend310P3, Ascend910B4. The command for it is printed with onnx too.
    (default: npu-smi's for om)"""
    outdir: str = "exported"
    """Folder for the files."""

    def run(self) -> None:
        """Write the files, and print how to compile them."""
        log.info("wav2lip-npu %s", __version__)
        self._check()
        chip = self.chip or (tools.chip_name() if self.format == OM else None)
        if self.format == OM and chip is None:
            raise UsageError("for which chip? Pass --chip as npu-smi info names it: --chip Ascend310P3.")
        files = list(self._files())
        for _, path in files:
            check_writable(path)
        from wav2lip_npu.export.onnx_export import export, load_weights

        weights = load_weights(network_of(self.network), self.checkpoint_path)
        for batch, path in files:
            made = export(weights, path, batch=batch, precision=self.precision, size=self.size)
            self._tell(made, weights)
            if chip is not None and batch is not None:
                self._compile(made, chip)

    def _check(self) -> None:
        """Raise `UsageError` when flags are wrong or do not go together."""
        words = {"network": (*KINDS, "expert"), "format": (ONNX, OM), "precision": PRECISIONS}
        for name, known in words.items():
            if getattr(self, name) not in known:
                raise UsageError(f"unknown --{name} {getattr(self, name)!r}. Pass {', '.join(known)}.")
        batches = self._batches()
        if any(not 0 <= each <= _MOST for each in batches) or len(set(batches)) < len(batches):
            raise UsageError(
                f"--batch {' '.join(map(str, batches))}: pass different sizes of 1 to {_MOST}, 0 for any."
            )
        if 0 in batches and self.format == OM:
            raise UsageError("atc wants batches of one size. Pass --batch 1 8 or the like.")
        if self.size is not None and (self.network != "s3fd" or min(self.size) < 32 or max(self.size) > 4096):
            raise UsageError("--size is height and width of the pictures for --network s3fd, 32 to 4096.")
        if self.network == "s3fd" and any(batches) and self.size is None:
            raise UsageError("pictures for s3fd are of one size in such a file. Pass --size 320 576.")

    def _batches(self) -> tuple[int, ...]:
        return self.batch or ((_OM_BATCH,) if self.format == OM or self.chip else (0,))

    def _files(self) -> Iterator[tuple[int | None, Path]]:
        """Batch sizes, and the file for each."""
        for batch in self._batches():
            name = file_name(self.network, batch or None, self.precision, self.size)
            yield batch or None, Path(self.outdir) / name

    def _tell(self, made: Made, weights: Weights) -> None:
        about = made.about
        shapes = "; ".join(f"{name} {shape}" for name, shape in {**about.inputs, **about.outputs}.items())
        log.info("%s: opset %d, %s", made.path, about.opset, shapes)
        log.info("  of %s (sha256 %s), %.1e from PyTorch", weights.source, about.sha256[:12], made.difference)

    def _compile(self, made: Made, chip: str) -> None:
        """Print the command of the compiler, and run it for an .om file."""
        from wav2lip_npu.export.onnx_export import compile_command, write_beside

        write_beside(made)
        sys.stdout.write(shlex.join(compile_command(made, chip)) + "\n")
        sys.stdout.flush()
        if self.format != OM:
            return
        made = replace(made, path=made.path.resolve())  # the compiler leaves notes where it is run
        if tools.run_atc(compile_command(made, chip), made.path.with_suffix(f".{OM}")):
            log.info("compiled for %s: %s", chip, made.path.with_suffix(f".{OM}"))
        else:
            log.info(
                "there is no atc on the PATH: run the command where CANN is; the .json goes with the .om"
            )
