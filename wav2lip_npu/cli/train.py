"""The `train_syncnet` and `train` commands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wav2lip_npu import watchdog
from wav2lip_npu.cli.train_progress import show_progress
from wav2lip_npu.training.options import GeneratorSettings, SyncNetSettings

if TYPE_CHECKING:
    from wav2lip_npu.training.loop import TrainResult


@dataclass(frozen=True, kw_only=True)
class TrainSyncnetCommand(SyncNetSettings):
    """Train SyncNet, the lip-sync expert that judges the generator.

    wav2lip-npu train_syncnet --data_root lrs2_preprocessed --checkpoint_dir checkpoints/syncnet
    """

    def run(self) -> int:
        """Train until --steps or --nepochs, or until a signal stops it, then save. Return the exit code."""
        from wav2lip_npu.doctor.dataset import describe_problems
        from wav2lip_npu.training.syncnet import train_syncnet

        with show_progress(self.train) as progress:
            result = train_syncnet(
                self.paths.data_root,
                self.paths.checkpoint_dir,
                options=self.train,
                augmentation=self.augment,
                windows=self.windows,
                diagnose=describe_problems,
                progress=progress,
                paths=self.paths,
            )
        return _exit_code(result)


@dataclass(frozen=True, kw_only=True)
class TrainCommand(GeneratorSettings):
    """Train the generator against a frozen SyncNet.

    wav2lip-npu train --data_root lrs2_preprocessed --checkpoint_dir checkpoints/wav2lip
    --syncnet_checkpoint_path checkpoints/syncnet/checkpoint_step000010000.pth

    To fine-tune the bundled weights on a few minutes of your own face:

    wav2lip-npu train --checkpoint_path starter --data_root my_clips --checkpoint_dir checkpoints/me
    """

    def run(self) -> int:
        """Train until --steps or --nepochs, or until a signal stops it, then save. Return the exit code."""
        from wav2lip_npu.training.generator import train_generator

        with show_progress(self.train) as progress:
            result = train_generator(
                self.paths.data_root,
                self.paths.checkpoint_dir,
                options=self.train,
                generator=self.generator,
                augmentation=self.augment,
                targets=self.targets,
                progress=progress,
                paths=self.paths,
                syncnet_checkpoint_path=self.syncnet_checkpoint_path,
                disc_checkpoint_path=self.disc_checkpoint_path,
                face_size=self.face_size,
                alexnet=self.alexnet,
                lpips=self.lpips,
            )
        return _exit_code(result)


def _exit_code(result: TrainResult) -> int:
    return 0 if result.stopped_by is None else watchdog.exit_code(result.stopped_by)
