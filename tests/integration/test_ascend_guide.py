"""Commands and links of docs/ascend.md: all parse, the short ones run, and the page lists which.

With `TEST_DEVICE=npu` the commands run on the simulated device. Parsing is tested on the CPU only.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support import fake_cann
from support.devices import DEVICE
from support.dockerfiles import instructions
from support.talk import write_talk
from wav2lip_npu.ascend import installation
from wav2lip_npu.cli import main

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "ascend.md").read_text()
DOCKERFILE = (ROOT / "docker" / "Dockerfile.ascend").read_text()
JOB = (ROOT / "docker" / "volcano.yaml").read_text()
on_the_host = pytest.mark.skipif(DEVICE.type != "cpu", reason="reads only")

Words = list[str]


# Commands of the page

BLOCKS = re.findall(r"^```\w*\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)
TABLE = GUIDE[GUIDE.index("## How each command was tried") :]
PROGRAMS = (
    "wav2lip-npu torchrun bash python python3 pip docker kubectl npu-smi sudo source export unset "
    "/usr/local/Ascend/driver/tools/hccn_tool"
).split()
HOW = ("simulated", "parsed", "CPU", "not run")


def block_commands() -> list[str]:
    """Return the commands in code blocks, each on one line."""
    lines = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
    return [re.sub(r"\s+", " ", line).strip() for line in lines]


def inline_commands() -> list[str]:
    """Return commands in text and tables; two words such as `wav2lip-npu preprocess` only name one."""
    text = re.sub(r"^```.*?^```", "", GUIDE.removesuffix(TABLE), flags=re.DOTALL | re.MULTILINE)
    prefixes = [re.sub(r"\s+", " ", code) for code in re.findall(r"`([^`]+)`", text)]
    names = ("wav2lip-npu", "python")
    return [
        code
        for code in prefixes
        if " " in code
        and (program := code.split()[0]) in PROGRAMS
        and (program not in names or code.count(" ") > 1)
    ]


def rows() -> dict[str, str]:
    """Return command prefixes and how the commands were tried."""
    cells = re.findall(r"^\| (`.*) \| (.*) \|$", TABLE, re.MULTILINE)
    return {code: how for commands, how in cells for code in re.findall(r"`([^`]+)`", commands)}


def row_of(line: str) -> str:
    """Return the row of a command: the longest matching prefix."""
    bare = re.sub(r"^([A-Z_]+=\S+ )+", "", line)
    prefixes = [item for item in rows() if bare.startswith(item)]
    assert prefixes, f"the last table of the page has no row for: {line}"
    return max(prefixes, key=len)


def test_table_lists_every_command():
    used = {row_of(line) for line in [*block_commands(), *inline_commands()]}
    assert used == set(rows()), "rows without a command"


def test_table_uses_known_ways():
    for code, how in rows().items():
        assert how.startswith(HOW), code
        if how.startswith("simulated") and code.startswith(("wav2lip-npu", "torchrun")):
            assert code in RUNS or "two machines" in how, f"no test runs {code}"
    assert all(rows()[code].startswith("simulated") for code in RUNS)


def test_links_and_files_exist():
    headings = {
        re.sub(r"[^\w -]", "", text).strip().lower().replace(" ", "-")
        for text in re.findall(r"^#+ (.*)$", GUIDE, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", GUIDE):
        file, _, anchor = target.partition("#")
        if file:
            assert (ROOT / "docs" / file).exists(), target
        else:
            assert anchor in headings, target
    for name in re.findall(r"`((?:tests|docker|docs|benchmarks)/[\w./]+)`", GUIDE):
        assert (ROOT / name).exists(), name
    python = re.findall(r"^\| (\d[\w.]+).*?\| ([\w.]+) \| ([\d.]+ to [\d.]+) \|", GUIDE, re.MULTILINE)
    assert len(python) >= 5
    for plugin, cann, versions in python:
        assert installation.Release(plugin, cann, versions.replace(" to ", "-")) in installation.RELEASES


# Parsing


@pytest.fixture
def shell(tmp_path) -> Callable[..., list[Words]]:
    """Run lines in bash with programs that do nothing, and return the words they were called with."""
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    seen = tmp_path / "seen"
    stub = f"#!/bin/sh\n{{ printf '%s\\0' \"${{0##*/}}\" \"$@\"; printf '\\n'; }} >> {seen}\n"
    for name in {Path(program).name for program in PROGRAMS} - {"bash", "source", "export", "unset"}:
        (stubs / name).write_text(stub)
        (stubs / name).chmod(0o755)

    def run(text: str, **variables: str) -> list[Words]:
        seen.write_text("")
        text = text.replace("source ", ": source ").replace("/usr/local/Ascend/driver/tools/", "")
        environment = {"PATH": f"{stubs}:/usr/bin:/bin", "HOME": str(tmp_path), "USER": "me", **variables}
        options = {"cwd": tmp_path, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        done = subprocess.run(["bash", "-u", "-c", text], env=environment, **options)
        assert done.returncode == 0 and "unbound" not in done.stderr, done.stderr
        return [line.split("\0")[:-1] for line in seen.read_text().splitlines()]

    return run


@pytest.fixture
def parsed(monkeypatch) -> Callable[[Words], Any]:
    """Parse a command of wav2lip-npu without running it."""

    def parse(words: Words) -> Any:
        seen: list[Any] = []
        with monkeypatch.context() as patch:
            patch.setattr(main.COMMANDS[words[0]].load(), "run", lambda self: seen.append(self))
            assert main.main(words) == 0
        return seen[0]

    return parse


def torchrun(words: Words) -> tuple[Any, Words]:
    """Return the options of torchrun from its own parser, and the remaining words."""
    from torch.distributed.run import get_args_parser

    options = get_args_parser().parse_args(words)
    assert options.module and options.training_script == "wav2lip_npu"
    return options, list(options.training_script_args)


PLATFORM = {
    "MA_NUM_HOSTS": "2",
    "MA_NUM_GPUS": "8",
    "VC_TASK_INDEX": "1",
    "VC_WORKER_HOSTS": "one.job,two.job",
}


@on_the_host
@pytest.mark.parametrize("block", BLOCKS, ids=lambda text: " ".join(text.split()[:3]))
def test_blocks_parse(block, shell, parsed, tmp_path):
    (tmp_path / "work").mkdir()
    called = shell(block.replace("/home/ma-user/work", str(tmp_path / "work")), **PLATFORM)
    assert called or block.startswith("source"), "nothing was called"
    for program, *words in called:
        if program == "wav2lip-npu":
            parsed(words)
        elif program == "torchrun":
            parsed(torchrun(words)[1])
        elif program == "pip":
            check_pip(words)
        elif program == "docker":
            check_docker(words)
        elif program == "python":
            assert (ROOT / words[0]).exists()


@on_the_host
def test_inline_commands_parse(shell, parsed):
    assert {line.split()[0] for line in inline_commands()} >= {
        "export",
        "source",
        "sudo",
        "pip",
        "wav2lip-npu",
    }
    for line in inline_commands():
        for program, *words in shell(line):
            if program == "pip":
                check_pip(words)
            if program == "wav2lip-npu":
                parsed(words)


def check_pip(words: Words) -> None:
    from pip._internal.commands import create_command

    create_command(words[0]).parse_args(words[1:])
    if "--constraint" in words:
        assert (ROOT / words[words.index("--constraint") + 1]).exists()


def check_docker(words: Words) -> None:
    """Check flags with Docker's command line where it is installed; it parses before it connects to an engine."""
    if shutil.which("docker") and words[0] == "run":
        environment = {**os.environ, "DOCKER_HOST": "unix:///nonexistent"}
        done = subprocess.run(["docker", *words], env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode and not re.search("unknown flag|invalid|Usage", done.stderr), done.stderr
        engine = r"unknown server OS|[Cc]annot connect|nonexistent|docker\.sock"
        assert re.search(engine, done.stderr), done.stderr
    if words[0] == "build":
        assert (ROOT / words[words.index("--file") + 1]).exists()
        assert words[-1] == "."


@on_the_host
def test_machines_differ_only_in_rank(shell, parsed):
    pair = [block for block in BLOCKS if "--nnodes 2" in block]
    (one, first), (other, second) = [torchrun(shell(block)[0][1:]) for block in pair]
    assert (one.node_rank, other.node_rank) == (0, 1)
    for name in ("nnodes", "nproc_per_node", "master_addr", "master_port"):
        assert getattr(one, name) == getattr(other, name)
    assert first == second
    assert parsed(first).paths.checkpoint_dir == "savedmodel/syncnet_model"


@on_the_host
def test_platform_variables_are_used(shell, tmp_path):
    (block,) = [block for block in BLOCKS if "MA_NUM_HOSTS" in block]
    (tmp_path / "work").mkdir()
    called = shell(block.replace("/home/ma-user/work", str(tmp_path / "work")), **PLATFORM)
    options, words = torchrun(called[0][1:])
    assert (options.nnodes, options.node_rank, options.nproc_per_node) == ("2", 1, "8")
    assert (options.master_addr, options.master_port) == ("one.job", 29500)
    assert words[0] == "train_syncnet"


# Running

TINY = ["--width", "2", "--num_workers", "1"]
TRAINING = [*TINY, "--steps", "2", "--batch_size", "2", "--eval_interval", "2", "--eval_batches", "1"]
# Command prefixes of the table, and flags that make the command short.
RUNS: dict[str, Words] = {
    "wav2lip-npu doctor": [*TINY, "--num_clips", "2"],
    "wav2lip-npu preprocess --data_root": ["--workers", "1"],
    "wav2lip-npu train_syncnet": [*TINY, "--steps", "2", "--batch_size", "8"],
    "wav2lip-npu train": TRAINING,
    "wav2lip-npu dub": [],
    "wav2lip-npu batch": [],
    "wav2lip-npu compare": ["--network", "generator", "--batch", "2", "--runs", "1"],
    "wav2lip-npu export": ["--batch", "3"],
    "wav2lip-npu dub --engine om": [],
    "torchrun --nproc_per_node 8": [*TINY, "--steps", "2", "--batch_size", "8"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, face_video, speech) -> Path:
    """Create the working folder of the guide: videos in the layout of LRS2, a talk and speech."""
    root = tmp_path_factory.mktemp("guide")
    first = write_talk(root / "LRS2_partly/main/1/00001.mp4", 1.2)
    for name in ("1/00002", "2/00001"):
        path = root / f"LRS2_partly/main/{name}.mp4"
        path.parent.mkdir(exist_ok=True)
        shutil.copyfile(first, path)
    shutil.copyfile(face_video, root / "talk.mp4")
    shutil.copyfile(speech, root / "speech.wav")
    (root / "jobs.csv").write_text(
        "face,audio,outfile\ntalk.mp4,speech.wav,one.mp4\ntalk.mp4,speech.wav,two.mp4\n"
    )
    return root


def guide_lines(beginning: str) -> Iterator[Words]:
    """Yield the words of the commands of a table row."""
    for line in block_commands():
        if row_of(line) == beginning:
            yield shlex.split(line)


@pytest.mark.any_device
@pytest.mark.npu_only
@pytest.mark.timeout(200)
def test_vendor_steps_run(folder, monkeypatch, one_thread, caplog):
    """Run the steps in the order of the page, in one folder."""
    monkeypatch.chdir(folder)

    def run(beginning: str, holding: str = "") -> None:
        words = next(words for words in guide_lines(beginning) if holding in " ".join(words))[1:]
        assert main.main(words + ([] if "--json" in words else RUNS[beginning])) == 0, words

    def rename_checkpoint(name: str, step: int) -> None:
        """Provide the checkpoint of many steps that the page continues from."""
        checkpoint = folder / "savedmodel" / name / "checkpoint_step000000002.pth"
        shutil.copyfile(checkpoint, checkpoint.with_name(f"checkpoint_step{step:09d}.pth"))

    run("wav2lip-npu doctor", "--json")
    assert "Ascend: ready" in caplog.text and "compared with the CPU" in caplog.text
    report = json.loads((folder / "ticket.json").read_text())
    assert report["ok"] and report["ascend"]["state"] == "ready" and report["ascend"]["mend"] == ""
    assert report["device"].startswith("npu:0 (") and report["total_bytes"] == 64 << 30
    assert len(report["differences"]) == 8
    assert max(difference["largest"] for difference in report["differences"]) < 1e-4
    run("wav2lip-npu preprocess --data_root")
    assert (folder / "lrs2_preprocessed/main/1/00001/mel.npy").exists()
    run("wav2lip-npu doctor", "lrs2_preprocessed")
    run("wav2lip-npu train_syncnet")
    rename_checkpoint("syncnet_model", 10_000)
    run("wav2lip-npu train", "wav2lip_model")
    run("wav2lip-npu train", "--disc_wt")
    assert (folder / "savedmodel/wav2lip_hq/disc_checkpoint_step000000002.pth").exists()
    rename_checkpoint("wav2lip_model", 3000)
    run("wav2lip-npu dub")
    assert (folder / "results/result_voice.mp4").exists()


@pytest.mark.any_device
@pytest.mark.npu_only
def test_compiled_models_run(folder, monkeypatch, tiny_checkpoint, one_thread, capsys):
    """Compare, export and dub as on the page, with substitutes for the compiler and the runtime."""
    monkeypatch.chdir(folder)
    weights = folder / "savedmodel/wav2lip_model/checkpoint_step000003000.pth"
    weights.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(tiny_checkpoint, weights)
    atc = """#!/bin/sh
for word; do case "$word" in --model=*) from="${word#*=}";; --output=*) to="${word#*=}";; esac; done
cp "$from" "$to.om"
"""
    fake_cann.install_program(folder / "bin", "atc", atc, monkeypatch)
    calls: list[Any] = []
    fake_cann.install_bench(monkeypatch, calls)
    for beginning in ("wav2lip-npu compare", "wav2lip-npu export", "wav2lip-npu dub --engine om"):
        (words,) = guide_lines(beginning)
        words = [item.replace("generator_b8", "generator_b3") for item in words[1:]]
        assert main.main(words + RUNS[beginning]) == 0, words
    assert "B is npu" in capsys.readouterr().out
    assert calls[0] == ("load", 0, "exported/generator_b3.om")


@pytest.mark.slow
@pytest.mark.any_device
@pytest.mark.npu_only
@pytest.mark.timeout(200)
def test_several_cards_run(folder, monkeypatch, training_set):
    """Train in two processes by torchrun, and run a batch on two cards."""
    from support.trainings import start

    monkeypatch.chdir(folder)
    (words,) = guide_lines("torchrun --nproc_per_node 8")
    options, command_words = torchrun(words[1:])
    assert options.nproc_per_node == "8"
    command_words[command_words.index("--data_root") + 1] = str(training_set / "data")
    command_words[command_words.index("--checkpoint_dir") + 1] = str(folder / "cards")
    command_words += ["--filelists", str(training_set / "lists"), *RUNS["torchrun --nproc_per_node 8"]]
    child = start(command_words, "-m torch.distributed.run --standalone --nproc_per_node 2 -m wav2lip_npu")
    output, _ = child.communicate(timeout=150)
    assert child.returncode == 0, output
    assert "rank 0 of 2" in output and "on npu:0" in output

    (words,) = guide_lines("wav2lip-npu batch")
    words[words.index("jobs.csv")] = str(folder / "jobs.csv")
    child = start(words[1:])
    output, _ = child.communicate(timeout=150)
    assert child.returncode == 0, output
    assert (folder / "one.mp4").exists() and (folder / "two.mp4").exists()


# The Volcano job


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    prefixes: dict[str, Any] = yaml.safe_load(JOB)
    return prefixes


@on_the_host
def test_job_starts_all_pods_or_none(job):
    assert (job["apiVersion"], job["kind"]) == ("batch.volcano.sh/v1alpha1", "Job")
    spec = job["spec"]
    assert spec["schedulerName"] == "volcano"
    assert spec["minAvailable"] == sum(task["replicas"] for task in spec["tasks"]) == 2
    plugin = dict(word.removeprefix("--").split("=") for word in spec["plugins"]["pytorch"])
    assert [task["name"] for task in spec["tasks"]] == [plugin["master"], plugin["worker"]]
    assert "svc" in spec["plugins"]
    assert {"event": "PodFailed", "action": "RestartJob"} in spec["policies"]
    assert {"event": "TaskCompleted", "action": "CompleteJob"} in spec["tasks"][0]["policies"]


@on_the_host
def test_each_pod_trains_on_all_its_cards(job, parsed):
    tasks = job["spec"]["tasks"]
    plugin = dict(word.removeprefix("--").split("=") for word in job["spec"]["plugins"]["pytorch"])
    for rank, task in enumerate(tasks):
        (container,) = task["template"]["spec"]["containers"]
        assert "command" not in container, "only the entry point of the image sets up CANN"
        given = {  # by Volcano's plugin
            "WORLD_SIZE": str(len(tasks)),
            "RANK": str(rank),
            "MASTER_ADDR": f"{job['metadata']['name']}-{plugin['master']}-0.{job['metadata']['name']}",
            "MASTER_PORT": plugin["port"],
        }
        words = [
            re.sub(r"\$\((\w+)\)", lambda m, given=given: given[m[1]], word) for word in container["args"]
        ]
        assert words[0] == "torchrun"
        options, command_words = torchrun(words[1:])
        assert (options.nnodes, options.node_rank, options.master_port) == ("2", rank, 29500)
        (resource,) = container["resources"]["limits"]
        assert resource == "huawei.com/Ascend910"
        assert container["resources"]["limits"] == container["resources"]["requests"]
        assert str(container["resources"]["limits"][resource]) == options.nproc_per_node
        command = parsed(command_words)
        assert command.paths.device == "npu"
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert set(mounts) == {volume["name"] for volume in task["template"]["spec"]["volumes"]}
        assert mounts["work"] == container["workingDir"], "relative folders must be on the shared volume"
        assert not os.path.isabs(command.paths.data_root) and not os.path.isabs(command.paths.checkpoint_dir)
        assert all(isinstance(item["value"], str) for item in container["env"] if "value" in item)
        fields = [
            item["valueFrom"]["fieldRef"]["fieldPath"] for item in container["env"] if "valueFrom" in item
        ]
        assert fields == [f"metadata.annotations['{resource}']"]


@on_the_host
def test_pods_run_as_the_user_of_the_image(job):
    (user,) = [item.text for item in instructions(DOCKERFILE) if item.name == "USER"]
    for task in job["spec"]["tasks"]:
        context = task["template"]["spec"]["securityContext"]
        assert f"{context['runAsUser']}:{context['runAsGroup']}" == user
