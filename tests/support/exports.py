"""Export networks in tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wav2lip_npu.export.onnx_export import ExportedFile, LoadedNetwork, load_network, write_onnx
from wav2lip_npu.export.options import ExportOptions


def export(loaded: LoadedNetwork, path: Path, **options: Any) -> ExportedFile:
    """Export a loaded network."""
    return write_onnx(loaded, path, ExportOptions(network=loaded.network, **options))


def export_generator(path: Path, weights: str | Path = "starter", **options: Any) -> ExportedFile:
    """Export a generator from its weights file."""
    return export(load_network("generator", weights), path, **options)
