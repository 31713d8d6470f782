"""The example notebook runs."""

from __future__ import annotations

import json
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_cells_run(monkeypatch, capsys):
    monkeypatch.chdir(EXAMPLES)
    cells = json.loads((EXAMPLES / "dub.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    names: dict[str, object] = {}
    for number, source in enumerate(code):
        exec(compile(source, f"dub.ipynb cell {number}", "exec"), names)
    printed = capsys.readouterr().out
    assert "frames dubbed" in printed
    assert "256 256" in printed
    assert "no_such_file.mp4" in printed
