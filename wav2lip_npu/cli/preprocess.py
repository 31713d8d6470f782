"""The `preprocess` command: flags, progress bar and exit code of `preprocessing.run.preprocess`."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from wav2lip_npu import __version__, signals
from wav2lip_npu.cli.progress_bar import progress_bar
from wav2lip_npu.preprocessing.run import PreprocessOptions, preprocess

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PreprocessCommand:
    """Convert videos to training clips: face crops at 25 fps, audio at 16 kHz, mel.

    wav2lip-npu preprocess --data_root LRS2_partly --preprocessed_root lrs2_preprocessed
    """

    data_root: str
    """Folder of videos, searched recursively."""
    preprocessed_root: str
    """Output folder: the clip of a/b.mp4 is a/b. Existing clips are skipped."""
    options: Annotated[PreprocessOptions, tyro.conf.arg(name="")] = field(default_factory=PreprocessOptions)

    def run(self) -> int:
        """Create the missing clips. Return 1 if a video failed, else 0."""
        log.info("wav2lip-npu %s", __version__)
        try:
            with progress_bar("video") as show:
                summary = preprocess(
                    self.data_root, self.preprocessed_root, options=self.options, progress=show
                )
        except signals.StoppedError as stop:
            stop.note = "finished clips are kept. Run the same command again to resume"
            raise
        for line in str(summary).splitlines():
            log.info("%s", line)
        log.info("clips in %s, the result of each video in %s", self.preprocessed_root, summary.report)
        return int(bool(summary.count("failed")))
