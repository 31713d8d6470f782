"""The starter: small networks of our own that come with the package, so that nothing has to be downloaded."""

from __future__ import annotations

import os
from pathlib import Path

from wav2lip_npu.errors import CheckpointError

STARTER = "starter"
"""Stands for a path of weights."""
ABOUT = (
    "the small network that comes with the package, for trying out and to go on from with your own clips. "
    "For other weights pass --checkpoint_path"
)
_FOLDER = Path(__file__).resolve().parents[1] / "weights"


def weights_path(path: str | os.PathLike[str], kind: str) -> Path:
    """The file that a user means; `starter` is the network of that kind in the package.

    Raises `CheckpointError` when the package holds none.
    """
    if os.fspath(path) != STARTER:
        return Path(path)
    found = _FOLDER / f"{kind}.safetensors"
    if not found.exists():
        raise CheckpointError(f"there is no starter {kind} in {_FOLDER}. Pass the path of its weights.")
    return found
