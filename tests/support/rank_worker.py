"""What each rank does in `test_train_ranks.py`: argv[1] is the set of clips, argv[2] the folder to write to."""

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
from support.trainings import ORIGINAL, SYNCNET, WITH_DISC, command
from wav2lip_npu import device
from wav2lip_npu.cli import main
from wav2lip_npu.training import distributed, session, syncnet
from wav2lip_npu.training.distributed import Ranks, gathered, parallel
from wav2lip_npu.training.losses import all_pairs_loss
from wav2lip_npu.training.state import _copied

clips, out = map(Path, sys.argv[1:])
torch.set_num_threads(1)
here = device.resolve(distributed.local_device(str(DEVICE.type)))
device.activate(here)
dist.init_process_group(device.BACKENDS[here.type].collectives)
ranks = Ranks(dist.get_rank(), dist.get_world_size())
distributed.joined = lambda device: contextlib.nullcontext(ranks)  # joined once for all that follows
real_fit = session.fit
seen: dict[str, Any] = {}


def fit(state, batches, *arguments, **more):
    """Takes down what this rank trains on, and what its networks are in the end."""
    seen["clips"] = []

    def noted():
        for batch in batches:
            seen["clips"].append((batch.first, batch.after, batch.arrays["clip"].tolist()))
            yield batch

    seen["before"] = {k: v.clone() for k, v in state.main.network.state_dict().items()}
    try:
        real_fit(state, noted(), *arguments, **more)
    finally:
        seen["networks"] = {kind: each.network.state_dict() for kind, each in state.trainees.items()}
        if state.main.average is not None:
            with state.main.average.in_place():
                copied = {k: v.clone() for k, v in state.main.network.state_dict().items()}
            seen["networks"]["average"] = copied


session.fit = fit


def trained(name: str, words: list[Any], **flags: Any) -> None:
    dist.barrier()  # the first rank may still be writing what the other would go on from
    seen.clear()
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        seen["code"] = main.main(command(clips, out / name, words, **flags))
    torch.save(_copied({**seen, "said": said.getvalue()}, to="cpu"), out / f"{name}_{ranks.rank}.pt")


trained("syncnet", SYNCNET, steps=3, eval_interval=2, checkpoint_interval=2)
trained("resumed", [*ORIGINAL, "--accumulate", 2], steps=2, eval_interval=1)
trained("resumed", [*ORIGINAL, "--accumulate", 2], steps=4, eval_interval=1)
trained("disc", WITH_DISC, steps=2, sync_gate=100, eval_interval=1, clip_grad_norm=1)

torch.manual_seed(0)
network = torch.nn.Linear(6, 4).to(here)
wrapped = parallel(network, ranks)
rows = torch.randn(2, 8, 6).chunk(ranks.size, dim=1)[ranks.rank].to(here)
sound, picture = (torch.nn.functional.normalize(wrapped(each).relu() + 0.1) for each in rows)
frame = torch.arange(8).chunk(2)[ranks.rank].to(here)
clip = frame // 3
loss, _ = all_pairs_loss(*(gathered(each, ranks) for each in (sound, picture, clip.int(), frame.int())))
loss.backward()
torch.save(
    _copied({"loss": loss.detach(), "gradient": network.weight.grad}, to="cpu"),
    out / f"gradient_{ranks.rank}.pt",
)

if ranks.rank == 1:
    real_loss = syncnet.pair_loss
    syncnet.pair_loss = lambda *arguments: real_loss(*arguments) * float("nan")
trained("nan", ORIGINAL, steps=2)
dist.destroy_process_group()
