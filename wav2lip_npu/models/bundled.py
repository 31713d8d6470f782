"""The bundled networks, called starter: small ones that come with the package."""

from __future__ import annotations

import os
from pathlib import Path

from wav2lip_npu.errors import CheckpointError

STARTER = "starter"
"""Name that stands for the path of a bundled network."""
ABOUT = (
    "the small network that comes with the package, for trying out and for fine-tuning on your own clips. "
    "For other weights pass --checkpoint_path"
)
_FOLDER = Path(__file__).resolve().parents[1] / "weights"


def weights_path(path: str | os.PathLike[str], kind: str) -> Path:
    """Return a path unchanged, except that `starter` becomes that of the bundled network of the kind.

    Raises `CheckpointError` if no network of that kind is bundled.
    """
    if os.fspath(path) != STARTER:
        return Path(path)
    bundled = _FOLDER / f"{kind}.safetensors"
    if not bundled.exists():
        raise CheckpointError(f"there is no starter {kind} in {_FOLDER}. Pass the path of its weights.")
    return bundled
