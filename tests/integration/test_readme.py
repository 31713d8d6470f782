"""Code and commands of the README run."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from wav2lip_npu.cli import main

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch, tiny_checkpoint, face_video, speech):
    shutil.copy(tiny_checkpoint, tmp_path / "wav2lip.pth")
    shutil.copy(face_video, tmp_path / "talk.mp4")
    shutil.copy(speech, tmp_path / "speech.wav")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_python_blocks_run(folder):
    blocks = [text for language, text in BLOCKS if language == "python"]
    assert blocks
    for text in blocks:
        exec(compile(text, "README.md", "exec"), {})
        assert (folder / "out.mp4").exists()


def test_python_of_the_batch_page_runs(folder, capsys):
    page = (Path(__file__).resolve().parents[2] / "docs" / "batch.md").read_text()
    (text,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(text, "batch.md", "exec"), {})
    assert capsys.readouterr().out.count(" ok None") == 2
    assert sorted(path.name for path in folder.glob("dubbed/*")) == ["a.mp4", "b.mp4"]


def commands() -> list[list[str]]:
    """Return the words of the commands of wav2lip-npu, continued lines joined."""
    lines = [line for _, text in BLOCKS for line in text.replace("\\\n", " ").splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("wav2lip-npu ")]


def test_dubs_run(folder):
    dubs = [words for words in commands() if words[0] == "dub"]
    assert dubs
    for words in dubs:
        assert main.main(words) == 0
        assert (folder / "out.mp4").exists()


def test_batches_run(folder):
    """Run a batch over two folders, and one over a table."""
    for name, file in (("talks", "talk.mp4"), ("speech", "speech.wav")):
        (folder / name).mkdir()
        for number in range(2):
            shutil.copy(folder / file, folder / name / f"{number}{Path(file).suffix}")
    (folder / "jobs.csv").write_text("face,audio,outfile\ntalk.mp4,speech.wav,out/1.mp4\n")
    batches = [words for words in commands() if words[0] == "batch"]
    assert len(batches) == 2
    for words in batches:
        assert main.main([*words, "--cache", "off"]) == 0
    videos = {str(path.relative_to(folder)) for path in folder.glob("*/*.mp4")} - {
        "talks/0.mp4",
        "talks/1.mp4",
    }
    assert videos == {"dubbed/0__0.mp4", "dubbed/1__1.mp4", "out/1.mp4"}


def test_trainings_parse(monkeypatch):
    """Parse all other commands; test_end_to_end.py runs a similar sequence."""
    parsed = []
    for words in commands():
        if words[0] not in ("dub", "batch"):
            monkeypatch.setattr(main.COMMANDS[words[0]].load(), "run", lambda self: parsed.append(self))
            assert main.main(words) == 0
    assert len(parsed) >= 4


def test_every_make_target_exists():
    makefile = (Path(__file__).resolve().parents[2] / "Makefile").read_text()
    for target in re.findall(r"^make ([\w-]+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
