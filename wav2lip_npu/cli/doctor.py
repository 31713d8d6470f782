"""The `doctor` command: flags and output of `doctor.dataset` and `doctor.machine`."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field, fields, replace
from typing import Annotated

import tyro

from wav2lip_npu import __version__
from wav2lip_npu.cli.json_output import json_outputs, write_json
from wav2lip_npu.cli.progress_bar import progress_bar
from wav2lip_npu.data.clip_layout import CLIP_FILES
from wav2lip_npu.data.file_lists import LISTS
from wav2lip_npu.doctor.dataset import DatasetOptions, check_dataset
from wav2lip_npu.errors import UsageError
from wav2lip_npu.faces.detectors import detector_inputs
from wav2lip_npu.models.bundled import weights_inputs
from wav2lip_npu.options import fields_of
from wav2lip_npu.storage.outputs import InputPath, OutputPath, check_outputs

log = logging.getLogger(__name__)

_MACHINE_OPTIONS = {"data_root", "device", "json"}


@dataclass(frozen=True, kw_only=True)
class DoctorCommand:
    """Check a data set before training on it: problems, worst first, and how to fix them.
    Without DATA_ROOT, check this machine: versions, devices, codecs, face detectors and weights.

    wav2lip-npu doctor

    wav2lip-npu doctor lrs2_preprocessed --syncnet_checkpoint_path lipsync_expert.pth
    """

    data_root: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="[DATA_ROOT]")] = None
    """Folder of preprocessed clips, also those of the original's preprocess.py. None: check this machine."""
    options: Annotated[DatasetOptions, tyro.conf.arg(name="")] = field(default_factory=DatasetOptions)
    fix_offset: bool = False
    """Write new file lists that correct the audio offsets measured with SyncNet."""
    min_confidence: float | None = None
    """Write new file lists without the clips below this confidence, 0 to 1. None: keep all clips."""
    outdir: str = "filelists_synced"
    """Folder for the new file lists."""
    json: str | None = None
    """Write the whole report to this JSON file; without a file name, or with -, to standard output."""

    def __post_init__(self) -> None:
        """Check the values."""
        if self.data_root is None:
            defaults = {option.name: option.default for option in fields(self)} | dict(
                fields_of(DatasetOptions())
            )
            changed = {name for name, value in fields_of(self) if value != defaults[name]}
            if extra := sorted(changed - _MACHINE_OPTIONS):
                raise UsageError(f"--{extra[0]} needs clips. Pass their folder: doctor DATA_ROOT.")
            return
        if self.writes_lists and self.options.syncnet_checkpoint_path is None:
            raise UsageError(
                "--fix_offset and --min_confidence need SyncNet weights. Pass --syncnet_checkpoint_path."
            )
        if self.min_confidence is not None and not 0 <= self.min_confidence <= 1:
            raise UsageError(f"--min_confidence {self.min_confidence:g} is out of range. Pass 0 to 1.")

    @property
    def writes_lists(self) -> bool:
        """Whether new file lists are written."""
        return self.fix_offset or self.min_confidence is not None

    def run(self) -> int:
        """Run the checks and print the report. Return 1 if a check of the machine fails, else 0."""
        self._check_outputs()
        return self._check_machine() if self.data_root is None else self._check_dataset(self.data_root)

    def _check_outputs(self) -> None:
        """Check all output files. Raises `OutputError`."""
        outputs, inputs = json_outputs(self.json), detector_inputs()
        if self.writes_lists:
            outputs += [OutputPath("--outdir", os.path.join(self.outdir, name)) for name in LISTS]
        if self.data_root is not None:
            inputs.append(InputPath("DATA_ROOT", self.data_root, CLIP_FILES))
            inputs += [InputPath("--filelists", os.path.join(self.options.filelists, name)) for name in LISTS]
            if self.options.syncnet_checkpoint_path is not None:
                weights = self.options.syncnet_checkpoint_path
                inputs += weights_inputs("--syncnet_checkpoint_path", weights, "syncnet")
        check_outputs(outputs, inputs)

    def _check_machine(self) -> int:
        from wav2lip_npu.doctor.machine import check_machine

        report = check_machine(self.options.device)
        for line in str(report).splitlines():
            log.info("%s", line)
        if self.json is not None:
            write_json(report.as_dict(), self.json)
        return 0 if report.is_ok else 1

    def _check_dataset(self, data_root: str) -> int:
        log.info("wav2lip-npu %s", __version__)
        options = replace(self.options, num_clips=None) if self.writes_lists else self.options
        with progress_bar("clip") as show:
            report = check_dataset(data_root, options=options, progress=show)
        for line in str(report).splitlines():
            log.info("%s", line)
        if self.json is not None:
            write_json(report.as_dict(), self.json)
        if self.writes_lists:
            from wav2lip_npu.doctor.fix_offsets import write_fixed_lists

            assert self.options.syncnet_checkpoint_path is not None
            write_fixed_lists(
                report.lists,
                report.stats.measured,
                self.outdir,
                syncnet=self.options.syncnet_checkpoint_path,
                fix_offset=self.fix_offset,
                min_confidence=self.min_confidence,
            )
            log.info("train with --filelists %s", self.outdir)
        return 0
