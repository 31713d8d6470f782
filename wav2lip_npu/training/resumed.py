"""The checkpoints that a training run starts from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from wav2lip_npu.data.clip_layout import FACE_SIZE
from wav2lip_npu.errors import UsageError
from wav2lip_npu.models import checkpoint
from wav2lip_npu.models.bundled import STARTER, TERMS
from wav2lip_npu.models.checkpoint import Checkpoint
from wav2lip_npu.models.lpips import ALEXNET_PATHS, LINEAR_PATHS, Lpips
from wav2lip_npu.models.networks import SyncNet
from wav2lip_npu.models.plans import OWN_PLANS, Plan
from wav2lip_npu.models.user_weights import find
from wav2lip_npu.training.checkpoints import newest
from wav2lip_npu.training.critics import QUALITY
from wav2lip_npu.training.options import GeneratorSettings, TrainOptions, TrainPaths

log = logging.getLogger(__name__)


def load_checkpoints(paths: TrainPaths, kinds: list[str], disc: str | None) -> dict[str, Checkpoint]:
    """Load the checkpoints to resume from, by kind. Raises `CheckpointError`.

    `kinds` are the main network and the discriminator, if there is one, whose file may be `disc`.
    """
    loaded = {}
    if paths.checkpoint_path in (None, STARTER):
        loaded = newest(Path(paths.checkpoint_dir), kinds)
    if paths.checkpoint_path is not None and not loaded:
        path = Path(paths.checkpoint_path)
        loaded = {kinds[0]: checkpoint.load(path, kinds[0])}
        disc_path = path.with_name(f"disc_{path.name}")
        if len(kinds) > 1 and disc is None and disc_path.exists():
            loaded[kinds[1]] = checkpoint.load(disc_path, kinds[1])
    if disc is not None:
        beside = loaded.get(kinds[1])
        loaded[kinds[1]] = checkpoint.load(disc, kinds[1])
        if beside is not None and not beside.source.samefile(disc):
            log.warning(
                "%s is loaded instead of %s. Remove --disc_checkpoint_path to resume from that.",
                disc,
                beside.source,
            )
    return loaded


def check_width(options: TrainOptions, checkpoints: Mapping[str, Checkpoint]) -> None:
    """Raise `UsageError` if --width differs from that of a checkpoint."""
    for loaded in checkpoints.values():
        if options.width not in (None, loaded.width):
            raise UsageError(
                f"--width {options.width}, but {loaded.source} has the width {loaded.width}. "
                "Omit --width, or train from scratch in another --checkpoint_dir."
            )


def generator_plan(wanted: int | None, loaded: Checkpoint | None, kinds: list[str]) -> Plan:
    """Return the design of the generator to train: that of a checkpoint, or our own of the wanted face size.

    Raises `UsageError` if the checkpoint has another face size, or the discriminator does not fit.
    """
    if loaded is None or loaded.plan is None:
        own = {plan.size: plan for plan in OWN_PLANS}
        plan = own.get(wanted or FACE_SIZE)
        if plan is None:
            sizes = ", ".join(map(str, own))
            raise UsageError(f"--face_size {wanted}: from random weights, pass one of {sizes}.")
    else:
        plan = loaded.plan
        if wanted not in (None, plan.size):
            raise UsageError(
                f"--face_size {wanted}, but {loaded.source} generates faces of {plan.size} px. "
                "Omit --face_size, or train from scratch in another --checkpoint_dir."
            )
    if plan.size != FACE_SIZE and QUALITY in kinds:
        raise UsageError(f"--disc_wt judges faces of {FACE_SIZE} px, not {plan.size}. Pass --patch_disc_wt.")
    return plan


def is_resumed(paths: TrainPaths, loaded: Checkpoint) -> bool:
    """Return whether a run resumes from its own checkpoint, not from the weights of another run."""
    is_own = loaded.source.resolve().parent == Path(paths.checkpoint_dir).resolve()
    has_state = not paths.weights_only and (loaded.training or {}).get("optimizer") is not None
    return "position" in loaded.more and (has_state or (is_own and not paths.weights_only))


def load_syncnet(path: str) -> SyncNet:
    """Load the SyncNet that judges a generator. Raises `CheckpointError`."""
    loaded = checkpoint.load(path, "syncnet")
    if path == STARTER:
        log.info("SyncNet %s: the bundled network, %s", STARTER, TERMS)
    syncnet = SyncNet(loaded.width)
    syncnet.load_state_dict(loaded.weights)
    return syncnet.eval()


def load_lpips(settings: GeneratorSettings) -> Lpips | None:
    """Load the network of the loss LPIPS if it has a weight.

    Raises `CheckpointError` if a file is damaged, and `UsageError` if there is none.
    """
    if not settings.generator.lpips_weight:
        return None
    alexnet, linear = find(settings.alexnet, ALEXNET_PATHS), find(settings.lpips, LINEAR_PATHS)
    if alexnet is None or linear is None:
        raise UsageError(
            f"--lpips_weight {settings.generator.lpips_weight:g} needs weights that are not included: pass "
            f"--alexnet {ALEXNET_PATHS[0].name} and --lpips {LINEAR_PATHS[0].name}, see docs/evaluate.md."
        )
    return Lpips(alexnet, linear)
