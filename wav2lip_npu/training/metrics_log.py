"""Training curves and sample images, written to TensorBoard and to plain files."""

from __future__ import annotations

import contextlib
import json
import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.errors import OutputError
from wav2lip_npu.storage.outputs import write_output

log = logging.getLogger(__name__)

CURVES_FILE = "curves.jsonl"


class Curves:
    """Writes curves to `curves.jsonl`, one line per point, and to TensorBoard.

    Each line is flushed immediately. A run that resumes at an earlier step drops the lines after that step.
    All methods raise `OutputError` if a file cannot be written.
    """

    def __init__(self, directory: Path, step: int) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self._directory = directory
        self._path = directory / CURVES_FILE
        with self._write_errors():
            directory.mkdir(parents=True, exist_ok=True)
            _drop_after(self._path, step)
            self._file = self._path.open("a", encoding="utf-8")
            self._board: Any = SummaryWriter(str(directory), purge_step=step + 1)  # type: ignore[no-untyped-call]

    def write(self, part: str, step: int, values: Mapping[str, float]) -> None:
        """Write the values of a `part` of the run (`train`, `held_out`) at a step."""
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        with self._write_errors():
            self._file.write(json.dumps({"part": part, "step": step, **finite}) + "\n")
            self._file.flush()
            for name, value in finite.items():
                self._board.add_scalar(f"{part}/{name}", value, step)

    def write_image(self, step: int, image: NDArray[np.uint8]) -> None:
        """Write a sheet of samples, BGR uint8 [H, W, 3], as `samples_step{step}.jpg`."""
        path = self._directory / f"samples_step{step:09d}.jpg"
        _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])
        write_output(path, encoded.tobytes())
        with self._write_errors():
            self._board.add_image("samples", image[:, :, ::-1], step, dataformats="HWC")

    def close(self) -> None:
        """Close both files."""
        with self._write_errors():
            self._file.close()
            self._board.close()

    @contextlib.contextmanager
    def _write_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(
                f"cannot write {self._path}: {error.strerror or error}. Fix this and run the command again."
            ) from None


class Means:
    """Means of the losses since the latest point of the curves."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: Counter[str] = Counter()

    def add(self, values: Mapping[str, float]) -> None:
        """Add the losses of a step. Their names may differ from step to step."""
        self._counts.update(values.keys())
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def pop(self) -> dict[str, float]:
        """Return the means and reset them."""
        means = {name: value / self._counts[name] for name, value in self._sums.items()}
        self._sums.clear()
        self._counts.clear()
        return means


def _drop_after(path: Path, step: int) -> None:
    """Drop the lines after a step, and invalid JSON lines, such as a power failure may leave.

    Raises `OutputError` if the file was not created by a training.
    """
    if not path.exists():
        return
    kept = []
    has_own = has_foreign = False
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line.rstrip("\n") + "\n")
            has_own = True
        except (ValueError, KeyError, TypeError, RecursionError):
            has_foreign = has_foreign or line.endswith("\n")  # a killed run may leave an incomplete line
            log.warning("%s: dropped a damaged line", path)
    if has_foreign and not has_own:
        raise OutputError(f"{path} was not created by wav2lip-npu and would be replaced. Move it elsewhere.")
    write_output(path, "".join(kept))
