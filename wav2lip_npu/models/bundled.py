"""The bundled networks: small ones in the package, named `starter`."""

from __future__ import annotations

import os
from pathlib import Path

from wav2lip_npu.errors import CheckpointError
from wav2lip_npu.storage.hashing import FileState, state_of
from wav2lip_npu.storage.outputs import InputPath

STARTER = "starter"
"""Name to pass instead of a path to use a bundled network."""
TERMS = "trained on research corpora: for research and evaluation only"
ABOUT = f"the small bundled network, {TERMS}. For other weights, pass --checkpoint_path"
_FOLDER = Path(__file__).resolve().parents[1] / "weights"


def weights_path(path: str | os.PathLike[str], kind: str) -> Path:
    """Return the path unchanged; for `starter`, return the path of the bundled network of this kind.

    Raises `CheckpointError` if no network of that kind is bundled.
    """
    if os.fspath(path) != STARTER:
        return Path(path)
    bundled = _FOLDER / f"{kind}.safetensors"
    if not bundled.exists():
        raise CheckpointError(f"no bundled {kind} in {_FOLDER}. Pass the path of its weights.")
    return bundled


def weights_state(path: str | os.PathLike[str]) -> FileState | None:
    """Return the state of the weights of a generator, which changes with them; None if there are none."""
    try:
        return state_of(weights_path(path, "generator"))
    except OSError:
        return None


def weights_inputs(name: str, path: str | os.PathLike[str], kind: str = "generator") -> list[InputPath]:
    """Return the weights, and the manifest of an .om file, as inputs for `check_outputs`."""
    source = weights_path(path, kind)
    inputs = [InputPath(name, source)]
    if source.suffix.lower() == ".om":
        inputs.append(InputPath(f"manifest of {name}", source.with_suffix(".json")))
    return inputs
