"""Compile an exported .onnx file to an .om file with `atc`, the Ascend compiler."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from wav2lip_npu.ascend import tools
from wav2lip_npu.export.manifest import manifest_path
from wav2lip_npu.export.onnx_export import ExportedFile
from wav2lip_npu.export.options import OM
from wav2lip_npu.storage.outputs import write_output


def write_manifest(exported: ExportedFile) -> None:
    """Write the manifest of the .om file that the .onnx file is compiled to."""
    write_output(manifest_path(exported.path), exported.manifest.as_json() + "\n")


def atc_command(exported: ExportedFile, chip: str) -> list[str]:
    """Return the command that compiles a file for a chip such as `Ascend310P3`, next to the .onnx file."""
    shapes = (f"{name}:{','.join(map(str, shape))}" for name, shape in exported.manifest.inputs.items())
    # According to its documentation, atc supports transposed convolutions in fp16 only; the other operators
    # keep float32 if possible.
    mode = "force_fp16" if exported.manifest.precision == "fp16" else "allow_fp32_to_fp16"
    return [
        "atc",
        "--framework=5",
        f"--model={exported.path}",
        f"--output={exported.path.with_suffix('')}",
        "--input_format=NCHW",
        f"--input_shape={';'.join(shapes)}",
        f"--soc_version={chip}",
        f"--precision_mode={mode}",
        "--output_type=FP32",
    ]


def compile_om(exported: ExportedFile, chip: str) -> Path | None:
    """Write the .om file and its manifest. Return its path, or `None` if atc is not installed.

    Raises `ExportError` if the compiler fails.
    """
    write_manifest(exported)
    exported = replace(exported, path=exported.path.resolve())  # atc runs in a temporary folder
    target = exported.path.with_suffix(f".{OM}")
    return target if tools.run_atc(atc_command(exported, chip), target) else None
