"""Two processes on gloo, started as torchrun starts them: it would only add its own import of PyTorch."""

from __future__ import annotations

import signal
import socket
import time

import pytest
import torch

from support.devices import DEVICE
from support.trainings import ORIGINAL, ROOT, assert_same, command, lines, read, start
from wav2lip_npu.training.losses import all_pairs_loss

pytestmark = [
    pytest.mark.any_device,
    pytest.mark.slow_on_npu,
    pytest.mark.skipif(DEVICE.type == "cuda" and torch.cuda.device_count() < 2, reason="needs two GPUs"),
]
TORCHRUN = "-m torch.distributed.run --standalone --nproc_per_node 2"


@pytest.fixture(scope="module")
def records(training_set, tmp_path_factory):
    """The records of both ranks."""
    out = tmp_path_factory.mktemp("ranks")
    script = str(ROOT / "tests" / "support" / "rank_worker.py")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    children = [
        start([str(training_set), str(out)], script, more_env={**shared, "RANK": rank, "LOCAL_RANK": rank})
        for rank in ("0", "1")
    ]
    for child in children:
        text, _ = child.communicate(timeout=240)
        assert child.returncode == 0, text

    def load(name):
        return [torch.load(out / f"{name}_{rank}.pt") for rank in (0, 1)]

    load.out = out
    return load


@pytest.mark.parametrize("name", ["syncnet", "resumed", "resident", "patches", "disc"])
def test_both_ranks_end_with_the_same_networks(records, name):
    one, other = records(name)
    assert one["code"] == other["code"] == 0, one["stderr"] + other["stderr"]
    assert_same(one["networks"], other["networks"])
    first = next(iter(one["networks"].values()))
    assert max(float((first[k] - v).abs().max()) for k, v in one["before"].items() if v.dim() > 1) > 0


def test_checkpoints_hold_those_networks(records):
    saved = read(records.out / "syncnet" / "checkpoint_step000000003.pth")
    assert_same(dict(saved["state_dict"]), dict(records("syncnet")[1]["networks"]["average"]))
    assert_same(dict(saved["wav2lip_npu"]["weights"]), dict(records("syncnet")[1]["networks"]["syncnet"]))
    assert len(saved["wav2lip_npu"]["rng"]) == 2
    disc = read(records.out / "disc" / "disc_checkpoint_step000000002.pth")
    assert_same(dict(disc["state_dict"]), dict(records("disc")[1]["networks"]["discriminator"]))


def test_each_rank_trains_on_its_own_samples(records):
    for name, rows, batch in (("syncnet", 16, 2), ("resumed", 4, 4), ("resident", 16, 2)):
        one, other = (found["clips"] for found in records(name))
        assert [item[:2] for item in one] == [item[:2] for item in other]
        assert all(after - first == 2 * batch for first, after, _ in one)  # positions of both ranks together
        assert all(len(clips) == rows for _, _, clips in one + other)
        assert [clips for *_, clips in one] != [clips for *_, clips in other]
    together = [
        set(clips) for _, _, clips in records("syncnet")[0]["clips"][:1] + records("syncnet")[1]["clips"][:1]
    ]
    assert not together[0] & together[1]  # four of the five clips of the epoch, two on each rank


def test_only_the_first_rank_writes(records):
    assert [row["step"] for row in lines(records.out / "syncnet", "held_out")] == [2]
    assert sorted(path.name for path in (records.out / "syncnet").glob("*.pth")) == [
        "checkpoint_step000000002.pth",
        "checkpoint_step000000003.pth",
    ]
    assert "rank 0 of 2" not in records("syncnet")[1]["stderr"]


def test_gathered_loss_has_the_gradient_of_one_process(records):
    torch.manual_seed(0)
    network = torch.nn.Linear(6, 4)
    audio, faces = (
        torch.nn.functional.normalize(network(item).relu() + 0.1) for item in torch.randn(2, 8, 6)
    )
    frame = torch.arange(8)
    clip = torch.cat([item // 3 for item in frame.chunk(2)])
    loss, _ = all_pairs_loss(audio, faces, clip, frame)
    loss.backward()
    for found in records("gradient"):
        torch.testing.assert_close(found["loss"], loss.detach())
        torch.testing.assert_close(found["gradient"], network.weight.grad)


def test_non_finite_loss_on_one_rank_stops_both(records):
    one, other = records("nan")
    assert one["code"] == other["code"] == 2
    assert one["stderr"].splitlines()[-1] == other["stderr"].splitlines()[-1]
    assert "step 1 (bce nan, accuracy" in one["stderr"]
    assert "samples 0 to 7 (c" in one["stderr"]
    names = {f"c{clip}" for clip in other["clips"][0][2]}
    assert set(one["stderr"].split("samples 0 to 7 (")[1].split(")")[0].split(", ")) == names
    assert_same(
        {k: v for k, v in one["networks"]["syncnet"].items() if not k.endswith(("mean", "var", "tracked"))},
        {k: v for k, v in one["before"].items() if not k.endswith(("mean", "var", "tracked"))},
    )
    assert not list((records.out / "nan").glob("*.pth"))


@pytest.mark.slow
def test_sigterm_to_torchrun_saves_and_ends(training_set, tmp_path):
    out = tmp_path / "out"
    words = command(training_set, out, ORIGINAL, log_interval=1)
    child = start(words[1:], f"{TORCHRUN} color_syncnet_train.py")
    deadline = time.monotonic() + 100
    while not ((out / "curves.jsonl").exists() and (out / "curves.jsonl").stat().st_size):
        assert child.poll() is None, child.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child.send_signal(signal.SIGTERM)
    text, _ = child.communicate(timeout=60)
    (path,) = out.glob("*.pth")
    content = read(path)
    assert f"step {content['global_step']} saved" in text
    assert content["wav2lip_npu"]["position"] == 8 * content["global_step"]
    assert "wav2lip-npu: " not in text
