"""The example notebook runs."""

from __future__ import annotations

import json
from pathlib import Path

import soundfile

ROOT = Path(__file__).resolve().parents[2]


def test_cells_run(tmp_path, monkeypatch, capsys):
    """With the first half second of the audio."""
    for name in ("examples", "recipes"):
        (tmp_path / name).mkdir()
    samples, rate = soundfile.read(ROOT / "recipes" / "hello.flac")
    soundfile.write(tmp_path / "recipes" / "hello.flac", samples[: rate // 2], rate)
    monkeypatch.chdir(tmp_path / "examples")
    cells = json.loads((ROOT / "examples" / "dub.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    names: dict[str, object] = {}
    for number, source in enumerate(code):
        exec(compile(source, f"dub.ipynb cell {number}", "exec"), names)
    printed = capsys.readouterr().out
    assert "frames dubbed" in printed
    assert "256 256" in printed
    assert "no_such_file.mp4" in printed
