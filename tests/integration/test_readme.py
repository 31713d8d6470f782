"""Code and commands of the README run."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from support.talk import write_talk
from wav2lip_npu.cli import main

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
TRAINING = (ROOT / "docs" / "training.md").read_text()
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


@pytest.mark.slow
def test_python_of_the_batch_page_runs(folder, capsys):
    page = (ROOT / "docs" / "batch.md").read_text()
    (text,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(text, "batch.md", "exec"), {})
    assert capsys.readouterr().out.count(" ok None") == 2
    assert sorted(path.name for path in folder.glob("dubbed/*")) == ["a.mp4", "b.mp4"]


def commands(page: str = README) -> list[list[str]]:
    """Return the words of the commands of wav2lip-npu, continued lines joined."""
    texts = [text for _, text in re.findall(r"```(\w*)\n(.*?)```", page, re.DOTALL)] or [page]
    lines = [line.strip() for text in texts for line in text.replace("\\\n", " ").splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("wav2lip-npu ")]


def test_dubs_run(folder):
    dubs = [words for words in commands() if words[0] == "dub"]
    assert dubs
    for words in dubs:
        assert main.main(words) == 0
        assert (folder / "out.mp4").exists()


@pytest.mark.slow
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


def flag(words: list[str], name: str, default: str = "") -> str:
    return words[words.index(name) + 1] if name in words else default


@pytest.mark.parametrize("page", [README, TRAINING], ids=["README", "training"])
def test_trainings_in_one_folder_have_separate_file_lists(page):
    """F4: "Your own face" does not use the lists of "Train your own"."""
    lists = {}
    for words in commands(page):
        if words[0] == "preprocess":
            lists[flag(words, "--preprocessed_root")] = flag(words, "--filelists", "filelists")
    assert len(set(lists.values())) == len(lists) >= 2
    for words in commands(page):
        if words[0] in ("train", "train_syncnet") and (root := flag(words, "--data_root")) in lists:
            assert flag(words, "--filelists", "filelists") == lists[root]


@pytest.mark.slow
def test_both_trainings_of_the_readme_run_in_one_folder(folder, caplog):
    """F4: as printed, with one step each, narrow networks and other videos."""
    video = write_talk(folder / "talk.mp4", 1.2)
    for name in ("LRS2_partly/1", "my_videos"):
        (folder / name).mkdir(parents=True)
        for number in range(2):
            shutil.copy(video, folder / name / f"{number}.mp4")
    small = {
        "train_syncnet": ["--width", "2", "--batch_size", "8"],
        "train": ["--batch_size", "2", "--eval_batches", "1"],
    }
    for words in commands():
        if words[0] == "train_syncnet" or (words[0] == "train" and "starter" not in words):
            words = [
                *words,
                *small[words[0]],
                *(["--width", "2"] if words[0] == "train" else []),
                "--steps",
                "1",
            ]
        elif words[0] == "train":
            words = [*words[: words.index("--steps")], "--steps", "1", *small["train"]]
        elif words[0] not in ("preprocess", "doctor"):
            continue
        caplog.clear()
        assert main.main([*words, "--device", "cpu"]) == 0, words
        assert "in no list" not in caplog.text
        syncnet = folder / "checkpoints/syncnet/checkpoint_step000000001.pth"
        if syncnet.exists():
            shutil.copy(syncnet, syncnet.with_name("checkpoint_step000010000.pth"))
    assert {path.parent.name for path in folder.glob("checkpoints/*/checkpoint*.pth")} == {
        "syncnet",
        "wav2lip",
        "me",
    }


def test_step_counts_agree():
    """F6: README, docs and help agree on the number of steps and their duration."""
    pages = [README, *(path.read_text() for path in (ROOT / "docs").glob("*.md"))]
    pages += [path.read_text() for path in (ROOT / "wav2lip_npu").rglob("*.py")]
    steps = {step for page in pages for step in re.findall(r"syncnet\w*/checkpoint_step0*(\d+)", page)}
    assert steps == {"10000"}
    for page in (README, TRAINING):
        assert "10,000 steps" in page
        assert re.search(r"4 minutes", page)
        assert re.search(r"a day", page)
    own_face = [
        flag(words, "--steps")
        for page in (README, TRAINING)
        for words in commands(page)
        if "starter" in words
    ]
    assert len(own_face) >= 2
    assert set(own_face) == {"600"}


def test_every_make_target_exists():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([\w-]+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
