"""Load networks of other projects whose weights the user provides. Only tensors are read from the files."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wav2lip_npu.errors import CheckpointMismatchError
from wav2lip_npu.models import checkpoint


def load_network(
    path: str | os.PathLike[str],
    network: Callable[[], nn.Module],
    name: str,
    flag: str,
    *,
    ignored: str = "-",
) -> Any:
    """Return a network with the weights of a file, in eval mode.

    Tensors whose names begin with `ignored` are not used.

    Raises:
        CheckpointError: The file is missing or damaged, or belongs to another network.

    """
    weights = {
        key: value for key, value in checkpoint.load_tensors(path).items() if not key.startswith(ignored)
    }
    with torch.device("meta"):
        module = network()
    expected = {key: value.shape for key, value in module.state_dict().items()}
    counters = {key for key in expected if key.endswith("num_batches_tracked")}
    names = sorted((expected.keys() - counters) | (weights.keys() - counters))
    wrong = [key for key in names if key not in weights or expected.get(key) != weights[key].shape]
    if wrong:
        raise CheckpointMismatchError(
            f"{path} is not {name}: {len(wrong)} of its tensors differ, first {wrong[0]!r:.80}. "
            f"Pass another file as {flag}."
        )
    checkpoint.check_form(weights, Path(path))
    checkpoint.check_finite(weights, Path(path), "the file is damaged. Download it again.")
    tensors = {key: weights[key].float() for key in expected.keys() - counters}
    tensors |= {key: torch.zeros((), dtype=torch.long) for key in counters}
    module.load_state_dict(tensors, assign=True)
    return module.eval().requires_grad_(False)


def find(given: str | None, paths: Sequence[Path]) -> Path | None:
    """Return a path that was passed, or else the first of `paths` that exists."""
    return Path(given) if given is not None else next((path for path in paths if path.exists()), None)
