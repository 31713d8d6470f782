"""Train tiny networks on small generated clips."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from support.clip_folders import write_clip
from support.devices import DEVICE, SIMULATION
from support.networks import golden_weights
from wav2lip_npu.cli import main
from wav2lip_npu.models import checkpoint
from wav2lip_npu.models.networks import SyncNet
from wav2lip_npu.signals import Hold
from wav2lip_npu.training.first_look import FirstLook
from wav2lip_npu.training.readback import Readback
from wav2lip_npu.training.state import TrainState

ROOT = Path(__file__).resolve().parents[2]
TRAIN_CLIPS, HELD_OUT_CLIPS = 5, 2
SYNCNET = ["train_syncnet", "--batch_size", 16]
ORIGINAL = ["train_syncnet", "--recipe", "original", "--batch_size", 4]
GENERATOR = ["train", "--batch_size", 2, "--eval_batches", 1]
WITH_DISC = [*GENERATOR, "--disc_wt", 0.07]


def write_set(root: Path) -> Path:
    """Write clips, file lists and a SyncNet of width 2, and return the folder."""
    names = [f"c{number}" for number in range(TRAIN_CLIPS + HELD_OUT_CLIPS)]
    for name in names:
        write_clip(root / "data" / name, 24)
    (root / "lists").mkdir()
    for path, some in (("train.txt", names[:TRAIN_CLIPS]), ("val.txt", names[TRAIN_CLIPS:])):
        (root / "lists" / path).write_text("".join(f"{name}\n" for name in some))
    checkpoint.save(root / "syncnet.pth", golden_weights(SyncNet(width=2)))
    return root


def command(root: Path, out: Path, words: list[Any], **flags: Any) -> list[str]:
    """Return the command line of a training; a flag that is None is left out."""
    all_flags = {
        "data_root": root / "data",
        "filelists": root / "lists",
        "checkpoint_dir": out,
        "width": 2,
        "num_workers": 1,
        "data_on": "host",  # the same samples on every device
        "device": DEVICE.type,
        **({"syncnet_checkpoint_path": root / "syncnet.pth"} if words[0] == "train" else {}),
        **flags,
    }
    return [
        str(word)
        for word in (*words, *(w for k, v in all_flags.items() if v is not None for w in (f"--{k}", v)))
    ]


def train(root: Path, out: Path, words: list[Any], **flags: Any) -> Path:
    """Train in this process, and return the folder of the checkpoints."""
    assert main.main(command(root, out, words, **flags)) == 0
    return out


def start(
    words: list[str],
    script: str = "-m wav2lip_npu",
    *,
    more_env: Mapping[str, str] | None = None,
    **options: Any,
) -> subprocess.Popen[str]:
    """Start a command in a separate process, with more variables in its environment."""
    return subprocess.Popen(
        [sys.executable, *script.split(), *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(
                map(str, (ROOT, ROOT / "tests", *([SIMULATION] if DEVICE.type == "npu" else [])))
            ),
            **(more_env or {}),
        },
        # A shell starts background jobs with SIGINT ignored; the child must handle it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **options,
    )


def read(path: Path) -> dict[str, Any]:
    """Load a checkpoint as other programs do."""
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def assert_same(one: Any, other: Any, at: str = "") -> None:
    """Compare nested dicts and lists with tensors, bit for bit."""
    assert type(one) is type(other), at
    if isinstance(one, dict):
        assert list(one) == list(other), at
        for key in one:
            assert_same(one[key], other[key], f"{at}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), at
        for number, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{at}.{number}")
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, at
        assert torch.equal(one, other), at
    else:
        assert one == other, at


def assert_same_checkpoints(one: Path, other: Path, step: int) -> None:
    """Compare the checkpoints of all networks at a step in two folders."""
    names = sorted(path.name for path in one.glob(f"*_step{step:09d}.pth"))
    assert names == sorted(path.name for path in other.glob(f"*_step{step:09d}.pth")) != []
    for name in names:
        assert_same(read(one / name), read(other / name), name)


def weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a checkpoint."""
    state_dict: dict[str, torch.Tensor] = read(path)["state_dict"]
    return state_dict


def lines(out: Path, part: str) -> list[dict[str, Any]]:
    """Return the lines of curves.jsonl of one part."""
    rows = [json.loads(line) for line in (out / "curves.jsonl").read_text().splitlines()]
    return [row for row in rows if row["part"] == part]


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Return the largest difference of any weight."""
    return max(float((one[k].double() - other[k].double()).abs().max()) for k in one)


def task_of(step: Any) -> Any:
    """Return a task with the fields that `loop._advance` uses."""
    return SimpleNamespace(step=step, begin=lambda step: None)


def readback_of(state: TrainState, lag: int = 0) -> Readback:
    """Return a queue of losses, without a stop signal or an evaluation that is due."""
    return Readback(state, lambda batch: f"{batch.first} (c)", Hold(None), FirstLook(is_needed=False), lag)


@pytest.fixture(scope="session")
def training_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clips and lists of `write_set`."""
    return write_set(tmp_path_factory.mktemp("set"))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tiny networks are ten times slower with two threads on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def clips(training_set: Path, one_thread: None) -> Path:
    """The clips and lists, for training in one thread."""
    return training_set
