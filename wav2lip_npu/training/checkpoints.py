"""Checkpoint files of a training: names, the newest, and which are removed."""

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

_PREFIXES = {"discriminator": "disc_"}


def path_of(directory: Path, kind: str, step: int) -> Path:
    """Where the checkpoint of a network at a step is, as the original names it."""
    return directory / f"{_PREFIXES.get(kind, '')}checkpoint_step{step:09d}.pth"


def saved_steps(directory: Path) -> list[int]:
    """Steps of the checkpoints in a directory, the newest first."""
    names = (re.fullmatch(r"checkpoint_step(\d{9,})\.pth", path.name) for path in directory.glob("*.pth"))
    return sorted((int(name[1]) for name in names if name), reverse=True)


def newest(directory: Path, kinds: list[str]) -> dict[str, Checkpoint]:
    """The newest checkpoints of a directory that are whole, by kind; damaged ones are named in the log.

    A network beside the first that was not trained so far is left out. Raises `CheckpointMismatchError` when
    the directory is that of another training.
    """
    steps = saved_steps(directory)
    for step in steps:
        paths = {kind: path_of(directory, kind, step) for kind in kinds}
        try:
            return {kind: checkpoint.load(path, kind) for kind, path in paths.items() if path.exists()}
        except CheckpointMismatchError as error:
            raise CheckpointMismatchError(f"{error} Or pass another --checkpoint_dir.") from None
        except CheckpointError as error:
            log.warning("left out: %s", error)
    if steps:
        log.warning("no checkpoint in %s is whole: starting from scratch", directory)
    return {}


def clean_up(directory: Path) -> None:
    """Remove what processes that were killed while they wrote checkpoints left there."""
    for path in directory.glob("*checkpoint_step*.part"):
        whole = re.match(r"((?:disc_)?checkpoint_step\d{9,}\.pth)\.", path.name, re.ASCII)
        if whole:
            remove_stale_parts(directory / whole[1])


def prune(directory: Path, kinds: list[str], keep: int, *, step: int, best_step: int) -> None:
    """Remove all but the newest `keep` checkpoints that this package wrote, and that of `best_step`.

    Those after the present `step` are of another run and not looked at.
    """
    for old in [each for each in saved_steps(directory) if each <= step][keep:]:
        main = path_of(directory, kinds[0], old)
        if old == best_step or not _is_ours(main):
            continue
        for kind in kinds:
            path_of(directory, kind, old).unlink(missing_ok=True)


def _is_ours(path: Path) -> bool:
    try:
        return MORE in read(path)
    except CheckpointError:
        return False
