"""Two machines train one SyncNet; one of them fails, and the same commands resume.

The machines are two connected network namespaces, over gloo or the simulated hccl. Where namespaces are not
allowed, they are two addresses of this machine.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist

from support.nodes import ROOT, Node, free_port, two_nodes
from support.trainings import ORIGINAL, assert_same, assert_same_checkpoints, command, start
from wav2lip_npu.devices import device
from wav2lip_npu.errors import DeviceError, UsageError
from wav2lip_npu.training import distributed, session
from wav2lip_npu.training.checkpoints import saved_steps
from wav2lip_npu.training.distributed import Ranks

pytestmark = [pytest.mark.alone, pytest.mark.slow_on_npu, pytest.mark.timeout(240)]
WORKER = str(ROOT / "tests" / "support" / "node_worker.py")
EVERY = 3
"""Steps between checkpoints."""


class Machines(NamedTuple):
    """Two nodes and the clips that both read."""

    nodes: tuple[Node, Node]
    clips: Path

    def train(
        self, out: Path | tuple[Path, Path], steps: int, notes: Path | None = None
    ) -> list[subprocess.Popen[str]]:
        """Start training on both nodes; with `notes`, without torchrun, and each rank saves its networks there."""
        port = free_port()
        outs = out if isinstance(out, tuple) else (out, out)
        started = []
        for node, folder in zip(self.nodes, outs, strict=True):
            words = command(
                self.clips, folder, ORIGINAL, steps=steps, checkpoint_interval=EVERY, log_interval=1
            )
            if notes:
                started.append(node.start_rank(self.nodes[0], port, [WORKER, str(notes), *words]))
            else:
                started.append(node.start(self.nodes[0], port, ["-m", "wav2lip_npu", *words]))
        return started


class Failure(NamedTuple):
    """Result of a training run in which a machine failed."""

    out: Path
    output: str
    code: int
    took_s: float


@pytest.fixture(
    scope="module", params=[True, pytest.param(False, marks=pytest.mark.slow)], ids=["apart", "addresses"]
)
def machines(request, training_set, tmp_path_factory) -> Iterator[Machines]:
    with two_nodes(tmp_path_factory.mktemp("nodes") / "etc", apart=request.param) as nodes:
        yield Machines(nodes, training_set)


def fail_amid(machines: Machines, out: Path, number: int) -> Failure:
    """Fail a machine in the middle of a step, after two checkpoints."""
    children = machines.train(out, steps=1_000_000)
    left, gone = children[1 - number], children[number]
    deadline = time.monotonic() + 100
    while not (out / f"checkpoint_step{2 * EVERY:09d}.pth").exists():
        assert left.poll() is None, left.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    failed = time.monotonic()
    machines.nodes[number].fail()
    output, _ = left.communicate(timeout=100)
    took = time.monotonic() - failed
    gone.communicate(timeout=10)
    return Failure(out, output, left.returncode, took)


@pytest.fixture(scope="module")
def failure(machines, tmp_path_factory) -> Failure:
    """The second machine fails."""
    return fail_amid(machines, tmp_path_factory.mktemp("failure") / "out", 1)


@pytest.fixture(scope="module")
def resumed(machines, failure, tmp_path_factory) -> tuple[Path, int, list[str]]:
    """Run the same commands for two more steps: folder of the networks, step, outputs."""
    notes = tmp_path_factory.mktemp("notes")
    step = saved_steps(failure.out)[0] + 2
    output = []
    for child in machines.train(failure.out, step, notes):
        output.append(child.communicate(timeout=100)[0])
        assert child.returncode == 0, output[-1]
    return notes, step, output


def check_failure(failure: Failure) -> None:
    """Check that the other machine ends soon with a one-line error and its fix, without a traceback."""
    print(f"the other machine ended after {failure.took_s:.1f} s")
    assert failure.code == 1, "that is torchrun's"
    (line,) = [line for line in failure.output.splitlines() if line.startswith("wav2lip-npu: ")]
    assert line.startswith("wav2lip-npu: another process of this training has ended")
    assert "run the same commands again" in line
    assert "]: Traceback" not in failure.output


@pytest.mark.any_device
def test_failed_machine_ends_the_other(failure):
    check_failure(failure)


@pytest.mark.any_device
@pytest.mark.slow
def test_failed_master_ends_the_other(machines, tmp_path):
    check_failure(fail_amid(machines, tmp_path / "out", 0))


@pytest.mark.any_device
def test_same_commands_resume(resumed):
    notes, step, (first, other) = resumed
    assert f"resuming from step {step - 2} of " in first and f"step {step} saved: " in first
    assert "saved: " not in other, "one rank writes"
    networks = [torch.load(notes / f"rank{rank}.pt") for rank in (0, 1)]
    assert_same(*networks)


@pytest.mark.slow
@pytest.mark.any_device
def test_two_machines_equal_two_processes_of_one_machine(failure, resumed, training_set, tmp_path):
    """Results are equal bit for bit, even with a failure: the sum of two gradients is the same in any order."""
    _, step, _ = resumed
    words = command(
        training_set, tmp_path / "out", ORIGINAL, steps=step, checkpoint_interval=EVERY, log_interval=1
    )
    launcher = f"-m torch.distributed.run --standalone --nproc_per_node 2 {WORKER}"
    child = start([str(tmp_path), *words], launcher)
    output, _ = child.communicate(timeout=100)
    assert child.returncode == 0, output
    assert_same_checkpoints(failure.out, tmp_path / "out", step)


@pytest.mark.slow
def test_checkpoint_folders_that_differ_are_rejected(machines, failure, tmp_path):
    """Otherwise one machine would resume and the other start from scratch."""
    for child in machines.train((failure.out, tmp_path / "empty"), steps=10_000):
        output, _ = child.communicate(timeout=100)
        assert child.returncode == 1
        assert "wav2lip-npu: rank 1 resumes from no checkpoint, the first rank from step" in output
        assert "--checkpoint_dir" in output


# In one process


@pytest.fixture
def among_two(monkeypatch) -> None:
    """Make this process the first of two ranks."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name, result in {
        "init_process_group": None,
        "destroy_process_group": None,
        "get_rank": 0,
        "get_world_size": 2,
    }.items():
        monkeypatch.setattr(dist, name, lambda *arguments, result=result: result)


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("[/src/gloo/pair.cc:537] Read error [10.0.0.2]:144: Connection reset by peer. This is", "Read error [10.0.0.2]:144: Connection reset by peer"),
        ("OPS function error: HcclAllreduce, error code is 6\n[ERROR] EI0006: Getting socket times out.", "OPS function error: HcclAllreduce, error code is 6"),
        ("NCCL error in: nccl.cpp:1, remote process exited or there was a network error", "NCCL error in: nccl.cpp:1, remote process exited or there was a network error"),
    ],
)  # fmt: skip
def test_error_of_a_collective_becomes_one_line(among_two, text, short):
    with (
        pytest.raises(DeviceError, match="another process of this training has ended") as raised,
        distributed.process_group(device.resolve("cpu")) as ranks,
    ):
        assert ranks == Ranks(0, 2)
        raise RuntimeError(text)
    assert f"({short}). " in str(raised.value) and "\n" not in str(raised.value)


def test_bug_keeps_its_exception(among_two):
    with pytest.raises(RuntimeError, match="shape"), distributed.process_group(device.resolve("cpu")):
        raise RuntimeError("mat1 and mat2 have another shape")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (({}, (4, 1)), "rank 1 has 4 clips that differ from the 5 of the first rank.*--data_root"),
        (({"syncnet": "6"}, (5, 1)), "rank 1 resumes from step 6.*the first rank from no checkpoint.*--checkpoint_dir"),
    ],
)  # fmt: skip
def test_other_files_on_another_machine_are_rejected(training_set, monkeypatch, other, message):
    from wav2lip_npu.data.clip_index import index_clips

    train = index_clips(training_set / "data", training_set / "lists" / "train.txt", 0)
    monkeypatch.setattr(distributed, "all_gather", lambda own, ranks: [own, other])
    with pytest.raises(UsageError, match=message):
        session._check_same_files(Ranks(0, 2), {}, train)
