"""Read .onnx files that others have made: networks that the user adds to a dub."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wav2lip_npu.errors import CheckpointError
from wav2lip_npu.export.manifest import damaged_file, has_external_data, import_onnx, is_plain
from wav2lip_npu.storage.hashing import FileState, state_of
from wav2lip_npu.storage.regular_files import read_limited

STANDARD = ("", "ai.onnx")
"""Domains of the operators that every runtime has."""


@dataclass(frozen=True)
class ForeignNetwork:
    """A plain graph that refers to no other file."""

    path: Path
    content: bytes
    graph: Any
    """The `GraphProto`."""

    @property
    def inputs(self) -> list[Any]:
        """The inputs of the graph that are not weights."""
        initial = {tensor.name for tensor in self.graph.initializer}
        return [value for value in self.graph.input if value.name not in initial]


def state_of_file(flag: str, path: str | os.PathLike[str]) -> FileState:
    """Return size and time of a file named by a flag. Raises `CheckpointError`."""
    try:
        return state_of(path)
    except OSError as error:
        raise _unreadable(flag, path, error) from None


def read_foreign(
    flag: str, path: Path, *, max_bytes: int, advice: str, domains: Sequence[str] = STANDARD
) -> ForeignNetwork:
    """Read a network named by a flag; `advice` ends messages about the wrong kind of file.

    Its operators must belong to one of the `domains`. Subgraphs and functions are refused.

    Raises:
        CheckpointError: The file cannot be read, is damaged, or needs more than itself.
        UsageError: onnx or onnxruntime is missing.

    """
    onnx = import_onnx()
    try:
        content = read_limited(path, max_bytes)
    except OSError as error:
        raise _unreadable(flag, path, error) from None
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # of any type: the parser raises many for a damaged file
        raise damaged_file(path, error) from None
    if reason := _refusal(model, onnx, domains):
        raise CheckpointError(f"{flag} {path} {reason}. {advice}")
    return ForeignNetwork(path, content, model.graph)


def _refusal(model: Any, onnx: Any, domains: Sequence[str]) -> str | None:
    """Return why a model is not accepted; None if it is."""
    if has_external_data(model, onnx):
        return "refers to other files"
    if not is_plain(model) or any(node.domain not in domains for node in model.graph.node):
        return "contains more than a plain graph"
    return None


def _unreadable(flag: str, path: str | os.PathLike[str], error: OSError) -> CheckpointError:
    return CheckpointError(f"cannot read {flag} {path}: {error.strerror or error}. Check its path.")
