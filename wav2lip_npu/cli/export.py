"""The `export` command."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from wav2lip_npu import __version__
from wav2lip_npu.ascend import tools
from wav2lip_npu.errors import UsageError
from wav2lip_npu.export.manifest import manifest_path
from wav2lip_npu.export.options import (
    DETECTORS,
    INT8,
    OM,
    ExportOptions,
    Format,
    Precision,
    calibration_inputs,
    file_name,
    network_named,
)
from wav2lip_npu.faces.detectors import detector_inputs
from wav2lip_npu.models.bundled import STARTER, weights_inputs
from wav2lip_npu.models.plan_choice import AudioRefineOption, Design
from wav2lip_npu.storage.outputs import OutputPath, check_outputs

if TYPE_CHECKING:
    from wav2lip_npu.export.onnx_export import ExportedFile

log = logging.getLogger(__name__)

_OM_BATCH = 8


@dataclass(frozen=True, kw_only=True)
class ExportCommand:
    """Export a network as ONNX files, and as .om files for an Ascend chip where atc is installed.

    wav2lip-npu export --checkpoint_path wav2lip.pth --batch 1 8 32

    wav2lip-npu export --checkpoint_path wav2lip.pth --format om --chip Ascend310P3

    wav2lip-npu export --checkpoint_path wav2lip.pth --int8 --calibration_face talk.mp4
    """

    checkpoint_path: str = STARTER
    """Weights: .pth, .pt or .safetensors. starter: the bundled network; for a detector, its installed
    weights."""
    network: Literal["generator", "syncnet", "expert", "s3fd", "retinaface"] = "generator"
    """Network to export. expert is the former name of syncnet."""
    format: Format = "onnx"
    """File format. atc, the Ascend compiler, compiles om files from onnx files."""
    batch: tuple[int, ...] = ()
    """Batch sizes, one file each; 0 exports a file that accepts any batch size. If not given: 8 with
    --format om or --chip, else 0."""
    precision: Precision = "fp32"
    """Number format inside the files. Inputs and outputs are float32."""
    int8: bool = False
    """The same as --precision int8: a generator for CPUs with VNNI or AMX. It is written only if its mouths
    and their sync hardly differ on the calibration clip."""
    calibration_face: str | None = None
    """Face video or image for --int8, best of the person to dub. None: a bundled clip."""
    calibration_audio: str | None = None
    """Audio file for --calibration_face. None: its own audio."""
    size: tuple[int, int] | None = None
    """Height and width of the images for a detector, required with a fixed batch size; multiples of 32 for
    retinaface. None: any size."""
    face_size: int | None = None
    """Size of the faces in pixels, for generator weights that fit several: 192 or 384. None: as published."""
    audio_refine: AudioRefineOption = "auto"
    """Whether a generator uses its layers audio_refine; auto: measured in the weights, see docs/hd.md."""
    chip: str | None = None
    """Chip by its atc name, such as Ascend310P3 or Ascend910B4. --format onnx prints the atc command.
    None: the first chip that npu-smi lists, for om."""
    outdir: str = "exported"
    """Output folder."""

    def __post_init__(self) -> None:
        """Raise `UsageError` if options conflict."""
        batches = self._batches()
        if len(set(batches)) < len(batches):
            raise UsageError(f"--batch {' '.join(map(str, batches))}: pass every size once.")
        if 0 in batches and self.format == OM:
            raise UsageError("--format om needs a fixed batch size. Pass --batch 1 8.")
        if self._precision() == INT8 and (self.format == OM or self.chip):
            raise UsageError("--int8 is for CPUs. Remove --format om and --chip, or --int8.")
        list(self._files())

    def run(self) -> None:
        """Export the files and print how to compile them."""
        log.info("wav2lip-npu %s", __version__)
        chip = self.chip or (tools.chip_name() if self.format == OM else None)
        if self.format == OM and chip is None:
            raise UsageError("--format om needs a chip. Pass --chip Ascend310P3, the name in npu-smi info.")
        files = list(self._files())
        self._check_outputs([path for _, path in files], compiles=chip is not None)
        from wav2lip_npu.export.onnx_export import load_network, write_onnx

        loaded = load_network(
            network_named(self.network), self.checkpoint_path, Design(self.face_size, self.audio_refine)
        )
        for options, path in files:
            exported = write_onnx(loaded, path, options)
            _log(exported, loaded.source)
            if chip is not None and options.batch is not None:
                self._compile(exported, chip)

    def _check_outputs(self, files: Sequence[Path], *, compiles: bool) -> None:
        """Check all output files. Raises `OutputError`."""
        written = [*files]
        if compiles:
            written += [path.with_suffix(f".{OM}") for path in files] if self.format == OM else []
            written += map(manifest_path, files)
        kind = network_named(self.network)
        is_detector = kind in DETECTORS and self.checkpoint_path == STARTER
        weights = [] if is_detector else weights_inputs("--checkpoint_path", self.checkpoint_path, kind)
        calibration = calibration_inputs(next(self._files())[0])
        check_outputs(
            [OutputPath("--outdir", path) for path in written], [*weights, *detector_inputs(), *calibration]
        )

    def _precision(self) -> Precision:
        """Return the number format. Raises `UsageError` if two are given."""
        if self.int8 and self.precision not in ("fp32", INT8):
            raise UsageError(f"--int8 conflicts with --precision {self.precision}. Pass one of them.")
        return "int8" if self.int8 else self.precision

    def _batches(self) -> tuple[int, ...]:
        return self.batch or ((_OM_BATCH,) if self.format == OM or self.chip else (0,))

    def _files(self) -> Iterator[tuple[ExportOptions, Path]]:
        """Yield the options and the path of each file. Raises `UsageError`."""
        for batch in self._batches():
            options = ExportOptions(
                network=network_named(self.network),  # type: ignore[arg-type]
                precision=self._precision(),
                batch=None if batch == 0 else batch,
                size=self.size,
                calibration_face=self.calibration_face,
                calibration_audio=self.calibration_audio,
            )
            yield options, Path(self.outdir) / file_name(self.network, options)

    def _compile(self, exported: ExportedFile, chip: str) -> None:
        """Print the atc command; for an .om file, also run it."""
        from wav2lip_npu.export.om_export import atc_command, compile_om, write_manifest

        write_manifest(exported)
        sys.stdout.write(shlex.join(atc_command(exported, chip)) + "\n")
        sys.stdout.flush()
        if self.format != OM:
            return
        compiled = compile_om(exported, chip)
        if compiled is not None:
            log.info("compiled for %s: %s", chip, compiled)
        else:
            log.info(
                "atc is not on the PATH: run the command where CANN is installed, and keep the .json file "
                "next to the .om file"
            )


def _log(exported: ExportedFile, source: Path) -> None:
    manifest = exported.manifest
    shapes = "; ".join(f"{name} {shape}" for name, shape in {**manifest.inputs, **manifest.outputs}.items())
    log.info("%s: opset %d, %s", exported.path, manifest.opset, shapes)
    difference = exported.quality or f"{exported.difference:.1e}"
    log.info(
        "  exported from %s (sha256 %s), difference from PyTorch %s", source, manifest.sha256[:12], difference
    )
