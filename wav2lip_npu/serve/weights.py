"""The generators that jobs select by name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from wav2lip_npu.errors import CheckpointError
from wav2lip_npu.models.bundled import STARTER, weights_path
from wav2lip_npu.storage import hashing

_SUFFIXES = (".pth", ".pt", ".safetensors")


def model_paths(folder: str | None) -> dict[str, Path]:
    """Return the weights by name: `starter`, and the files of a folder."""
    paths = {STARTER: weights_path(STARTER, "generator")}
    if folder is not None:
        files = [path for path in Path(folder).iterdir() if path.suffix.lower() in _SUFFIXES]
        paths |= {path.name: path for path in sorted(files)}
    return paths


def model_objects(folder: str | None) -> list[dict[str, Any]]:
    """Return the JSON of all models. The first call reads all files."""
    objects = []
    for name, path in model_paths(folder).items():
        try:
            status, sha256 = os.stat(path), hashing.sha256_of(path)
        except OSError as error:
            raise CheckpointError(f"cannot read weights {name}: {error.strerror}. Check the file.") from None
        objects.append(
            {
                "id": name,
                "object": "model",
                "created": int(status.st_mtime),
                "owned_by": "wav2lip-npu",
                "bytes": status.st_size,
                "sha256": sha256,
            }
        )
    return objects
