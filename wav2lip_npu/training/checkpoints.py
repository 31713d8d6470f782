"""Checkpoint files of a training run: name them, find the newest, remove old ones."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from wav2lip_npu.errors import CheckpointError, CheckpointMismatchError
from wav2lip_npu.models import checkpoint
from wav2lip_npu.models.checkpoint import Checkpoint
from wav2lip_npu.models.weight_formats import MORE, read
from wav2lip_npu.storage.atomic import remove_stale_parts

log = logging.getLogger(__name__)

_PREFIXES = {"discriminator": "disc_", "patch_discriminator": "disc_"}
_CHECKPOINT = re.compile(r"checkpoint_step(\d{9}|[1-9]\d{9,})\.pth", re.ASCII)
"""Names that `path_of` returns."""
OUTPUT_FILES = re.compile(r"(disc_)?checkpoint_step\d{9,}\.pth|samples_step\d{9,}\.jpg", re.ASCII)
"""Names of the files that a training writes, apart from the curves."""


def path_of(directory: Path, kind: str, step: int) -> Path:
    """Return the path of a network's checkpoint at a step, named as in the original."""
    return directory / f"{_PREFIXES.get(kind, '')}checkpoint_step{step:09d}.pth"


def saved_steps(directory: Path) -> list[int]:
    """Return the steps of the checkpoints in a directory, newest first."""
    names = (_CHECKPOINT.fullmatch(path.name) for path in directory.glob("*.pth"))
    return sorted((int(name[1]) for name in names if name), reverse=True)


def newest(directory: Path, kinds: list[str]) -> dict[str, Checkpoint]:
    """Return the newest complete checkpoints of a directory, by kind.

    Damaged checkpoints are skipped with a warning. A network without a checkpoint, such as a discriminator
    that was added later, is left out. Raises `CheckpointMismatchError` if the directory belongs to another
    training run.
    """
    steps = saved_steps(directory)
    for step in steps:
        paths = {kind: path_of(directory, kind, step) for kind in kinds}
        try:
            # The main checkpoint is in the list, but may be a link to a missing file: loading it fails then.
            present = {kind: path for kind, path in paths.items() if kind == kinds[0] or path.exists()}
            return {kind: checkpoint.load(path, kind) for kind, path in present.items()}
        except CheckpointMismatchError as error:
            raise CheckpointMismatchError(f"{error} Or pass another --checkpoint_dir.") from None
        except CheckpointError as error:
            log.warning("skipped: %s", error)
    if steps:
        log.warning("%s has no complete checkpoint: starting from scratch", directory)
    return {}


def clean_up(directory: Path) -> None:
    """Remove partial files of processes that were killed while writing checkpoints."""
    for path in directory.glob("*checkpoint_step*.part"):
        target = re.match(r"((?:disc_)?checkpoint_step\d{9,}\.pth)\.", path.name, re.ASCII)
        if target:
            remove_stale_parts(directory / target[1])


def prune(directory: Path, kinds: list[str], keep: int, *, step: int, best_step: int) -> None:
    """Remove old checkpoints, except the newest `keep` and the one of `best_step`.

    Checkpoints after the current `step`, which belong to another run, and files not written by wav2lip-npu
    are kept.
    """
    for old in [saved for saved in saved_steps(directory) if saved <= step][keep:]:
        main = path_of(directory, kinds[0], old)
        if old == best_step or not _is_own(main):
            continue
        for kind in kinds:
            path_of(directory, kind, old).unlink(missing_ok=True)


def _is_own(path: Path) -> bool:
    """Return whether wav2lip-npu wrote a checkpoint."""
    try:
        return MORE in read(path)
    except CheckpointError:
        return False
