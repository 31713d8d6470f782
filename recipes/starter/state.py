"""Steps, windows and best held-out figures of the trainings of recipes/starter/run.sh.

    python recipes/starter/state.py WORK/syncnet    # print the weights with the best held-out loss

`pack.py` writes the state of a run beside its weights. `state.json` beside this file is that of the bundled
weights; a run that continues from them adds its own steps and windows.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from wav2lip_npu.data.file_lists import VAL, read_names
from wav2lip_npu.models import checkpoint
from wav2lip_npu.models.bundled import STARTER, weights_path
from wav2lip_npu.models.checkpoint import Checkpoint
from wav2lip_npu.training.checkpoints import path_of, saved_steps
from wav2lip_npu.training.metrics_log import CURVES_FILE
from wav2lip_npu.training.recipes import RECIPES

BUNDLED = Path(__file__).resolve().parent / "state.json"
LOSSES = {"syncnet": "bce", "generator": "l1"}
WINDOWS = {"syncnet": RECIPES["default"].windows_per_clip, "generator": 1}
"""Windows of a sample."""


def newest(folder: Path, kind: str) -> Checkpoint:
    """Return the newest checkpoint of a training."""
    return checkpoint.load(path_of(folder, kind, saved_steps(folder)[0]), kind)


def best(folder: Path, kind: str = "syncnet") -> Path:
    """Return the weights with the lowest held-out loss; the newest ones if those were not saved."""
    more = newest(folder, kind).more
    path = path_of(folder, kind, more["best_step"])
    if path.exists():
        return path
    if more["continued"] and more["best_step"] == 0:
        return weights_path(STARTER, kind)
    return path_of(folder, kind, saved_steps(folder)[0])


def state_of(work: Path) -> dict[str, Any]:
    """Return the state of the networks in WORK, including what they started from."""
    bundled = json.loads(BUNDLED.read_text())
    state: dict[str, Any] = {"held_out_clips": len(read_names(work / "lists" / VAL))}
    for kind, loss in LOSSES.items():
        loaded = newest(work / kind, kind)
        before = bundled[kind] if loaded.more["continued"] else {"steps": 0, "windows": 0}
        rows = [json.loads(line) for line in (work / kind / CURVES_FILE).read_text().splitlines()]
        figures = min((row for row in rows if row["part"] == "held_out"), key=lambda row: row[loss])
        state[kind] = {
            "steps": before["steps"] + (loaded.training or {})["global_step"],
            "windows": before["windows"] + WINDOWS[kind] * loaded.more["position"],
            "best_held_out": {
                key: round(value, 4) for key, value in figures.items() if key not in ("part", "step")
            },
        }
    return state


if __name__ == "__main__":
    sys.stdout.write(f"{best(Path(sys.argv[1]))}\n")
