"""Worker of each rank in `training/test_distributed.py`: argv[1] is the set of clips, argv[2] the output folder."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

sys.path[0] = str(Path(__file__).resolve().parents[1])

from support.devices import DEVICE
from support.trainings import GENERATOR, ORIGINAL, SYNCNET, WITH_DISC, command
from wav2lip_npu.cli import main
from wav2lip_npu.devices import device
from wav2lip_npu.training import distributed, loop, session, syncnet
from wav2lip_npu.training.distributed import Ranks, gather_rows, wrap
from wav2lip_npu.training.losses import all_pairs_loss
from wav2lip_npu.training.trained_network import copied

clips, out = map(Path, sys.argv[1:])
torch.set_num_threads(1)
own_device = device.resolve(distributed.local_device(str(DEVICE.type)))
device.activate(own_device)
dist.init_process_group(device.BACKENDS[own_device.type].collectives)
ranks = Ranks(dist.get_rank(), dist.get_world_size())
distributed.process_group = lambda device: contextlib.nullcontext(ranks)  # joined once for all trainings
real_fit, real_batches = session.fit, loop.batches
record: dict[str, Any] = {}


def batches(*arguments, **options):
    """Record the clips that this rank trains on."""
    for batch in real_batches(*arguments, **options):
        record["clips"].append((batch.first, batch.after, batch.clips.tolist()))
        yield batch


def fit(state, *arguments, **options):
    """Record the networks of this rank before and after the training."""
    record["clips"] = []
    record["before"] = {k: v.clone() for k, v in state.main.network.state_dict().items()}
    try:
        return real_fit(state, *arguments, **options)
    finally:
        record["networks"] = {kind: it.network.state_dict() for kind, it in state.networks.items()}
        if state.main.average is not None:
            with state.main.average.in_place():
                averaged = {k: v.clone() for k, v in state.main.network.state_dict().items()}
            record["networks"]["average"] = averaged


session.fit, loop.batches = fit, batches


def train(name: str, words: list[Any], **flags: Any) -> None:
    dist.barrier()  # the first rank may still be writing the checkpoint that the other resumes from
    record.clear()
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr):
        record["code"] = main.main(command(clips, out / name, words, **flags))
    torch.save(copied({**record, "stderr": stderr.getvalue()}, to="cpu"), out / f"{name}_{ranks.rank}.pt")


train("syncnet", SYNCNET, steps=3, eval_interval=2, checkpoint_interval=2)
train("resumed", [*ORIGINAL, "--accumulate", 2], steps=1, eval_interval=2)
train("resumed", [*ORIGINAL, "--accumulate", 2], steps=2, eval_interval=2)
changes: dict[str, Any] = {"flip": 0.5, "noise": 3, "grey": 0.5, "mel_noise": 0.1, "weight_decay": 0.05}
train("resident", [*SYNCNET, "--balance_speakers"], steps=2, data_on="device", eval_interval=9, **changes)
losses = {"gradient_weight": 0.5, "patch_disc_wt": 0.3, "disc_from": 1, "sync_from": 1, "ramp_steps": 2}
train("patches", GENERATOR, steps=2, reference_mouth_warp=1, silence=0.5, eval_interval=2, **losses)
train("disc", WITH_DISC, steps=2, sync_gate=100, eval_interval=1, clip_grad_norm=1)

torch.manual_seed(0)
network = torch.nn.Linear(6, 4).to(own_device)
wrapped = wrap(network, ranks)
rows = torch.randn(2, 8, 6).chunk(ranks.size, dim=1)[ranks.rank].to(own_device)
audio, faces = (torch.nn.functional.normalize(wrapped(part).relu() + 0.1) for part in rows)
frames = torch.arange(8).chunk(2)[ranks.rank].to(own_device)
numbers = frames // 3
loss, _ = all_pairs_loss(*(gather_rows(part, ranks) for part in (audio, faces, numbers.int(), frames.int())))
loss.backward()
torch.save(
    copied({"loss": loss.detach(), "gradient": network.weight.grad}, to="cpu"),
    out / f"gradient_{ranks.rank}.pt",
)

if ranks.rank == 1:
    real_loss = syncnet.pair_loss
    syncnet.pair_loss = lambda *arguments: real_loss(*arguments) * float("nan")
train("nan", ORIGINAL, steps=2)
dist.destroy_process_group()
