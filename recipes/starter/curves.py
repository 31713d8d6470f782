"""Plot, store and compare training curves of the bundled networks.

python recipes/starter/curves.py WORK           # compare the run in WORK with the stored curves
python recipes/starter/curves.py WORK --keep    # store the curves of WORK and plot docs/starter_curves.png
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np

HERE = Path(__file__).resolve().parent
STORED = HERE / "curves.json"
PLOT = HERE.parents[1] / "docs" / "starter_curves.png"
SHOWN = {"syncnet": "bce", "judge": "bce", "generator": "l1"}
COLOURS = {"train": (190, 160, 120), "held_out": (60, 60, 200)}
WIDTH, HEIGHT, LEFT, BELOW = 400, 260, 48, 30

Curves = dict[str, dict[str, list[tuple[int, float]]]]
"""Steps and losses by network and part, train or held_out."""


def read(work: Path) -> Curves:
    """Return the curves of a run. If a step was run twice, the later value is used."""
    curves: Curves = {}
    for network, loss in SHOWN.items():
        rows = [json.loads(line) for line in (work / network / "curves.jsonl").read_text().splitlines()]
        curves[network] = {
            part: sorted({row["step"]: row[loss] for row in rows if row["part"] == part}.items())
            for part in COLOURS
        }
    return curves


def compare(run: Curves, stored: Curves) -> None:
    """Print the mean of each curve over the common steps."""
    for network in SHOWN:
        for part in COLOURS:
            one, other = dict(run[network][part]), {int(step): loss for step, loss in stored[network][part]}
            both = sorted(one.keys() & other.keys())
            if both:
                a, b = (np.array([curve[step] for step in both]) for curve in (one, other))
                sys.stdout.write(
                    f"{network}, {part}, to step {both[-1]}: mean {a.mean():.4f}, stored {b.mean():.4f}, "
                    f"largest difference {np.abs(a - b).max():.4f}\n"
                )


def draw(curves: Curves) -> np.ndarray:
    """Return one panel per network, BGR uint8."""
    panels = []
    for network, loss in SHOWN.items():
        panel = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
        points = {part: np.array(curves[network][part]) for part in COLOURS}
        last = max(line[-1, 0] for line in points.values())
        top = float(np.percentile(points["train"][:, 1], 99))
        for tick in np.linspace(0, top, 5):
            y = round(row_of(tick, top))
            cv2.line(panel, (LEFT, y), (WIDTH - 10, y), (225, 225, 225))
            cv2.putText(panel, f"{tick:.2f}", (8, y + 4), 0, 0.38, (90, 90, 90), 1, cv2.LINE_AA)
        for part, values in points.items():
            x = LEFT + values[:, 0] / last * (WIDTH - LEFT - 12)
            line = np.stack([x, row_of(np.minimum(values[:, 1], top), top)], axis=1)
            cv2.polylines(panel, [np.rint(line).astype(np.int32)], False, COLOURS[part], 2, cv2.LINE_AA)
        title = f"{network}: {loss}, {last:.0f} steps"
        cv2.putText(panel, title, (LEFT, 16), 0, 0.45, (40, 40, 40), 1, cv2.LINE_AA)
        for number, (part, colour) in enumerate(COLOURS.items()):
            cv2.putText(panel, part, (LEFT + 110 * number, HEIGHT - 8), 0, 0.42, colour, 1, cv2.LINE_AA)
        panels.append(panel)
    return np.hstack(panels)


def row_of(loss: np.ndarray | float, top: float) -> np.ndarray | float:
    """Return the image row of a loss."""
    return HEIGHT - BELOW - np.asarray(loss) / top * (HEIGHT - BELOW - 28)


def main(work: Path, *words: str) -> int:
    """Compare, or store and plot."""
    run = read(work)
    if "--keep" in words:
        STORED.write_text(json.dumps(run).replace('"held_out"', '\n"held_out"') + "\n")
        cv2.imwrite(str(PLOT), draw(run))
    else:
        compare(run, json.loads(STORED.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
