"""Convert the networks of recipes/starter/run.sh to small weights files, with their state.

    python recipes/starter/pack.py WORK [FOLDER]

Takes the SyncNet with the best held-out loss and the newest generator. FOLDER, by default WORK/weights,
receives syncnet.safetensors, generator.safetensors and state.json. To bundle them, copy the weights to
wav2lip_npu/weights and the state beside this file, and update docs/starter.md.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from state import best, newest, state_of

from wav2lip_npu.models import checkpoint
from wav2lip_npu.models.checkpoint import Checkpoint
from wav2lip_npu.models.networks import Wav2Lip

METADATA = {
    "about": "starter of wav2lip-npu, see docs/starter.md",
    "licence": "for research and evaluation only, see docs/starter.md",
}
AUDIO_GAIN = 2.0
"""Factor of the distance between the embeddings of audio and of silence.

L1 averages over all mouths that fit the audio, so mouths move too little; the factor restores the amplitude.
"""


@torch.no_grad()
def amplify_audio(generator: Wav2Lip, gain: float) -> None:
    """Scale the distance of audio embeddings from that of silence, in the last batch norm.

    For the embedding q of silence, relu(gain * z - (gain - 1) * q) is q + gain * (relu(z) - q), at least 0.
    """
    generator.eval()
    silence = generator.audio_encoder(torch.full((1, 1, 80, 16), -4.0)).flatten()
    norm = generator.audio_encoder[-1].conv_block[1]
    norm.weight.mul_(gain)
    norm.bias.mul_(gain).sub_((gain - 1) * silence)


def amplified(loaded: Checkpoint, gain: float = AUDIO_GAIN) -> Checkpoint:
    """Return a generator with amplified audio, unless it started from weights that had been amplified."""
    if loaded.more.get("continued"):
        return loaded
    network = loaded.network()
    assert isinstance(network, Wav2Lip)
    amplify_audio(network, gain)
    return replace(loaded, weights=network.state_dict())


def main(work: Path, folder: Path | None = None) -> int:
    """Write both networks and their state."""
    folder = folder or work / "weights"
    folder.mkdir(parents=True, exist_ok=True)
    state = state_of(work)
    networks = (
        checkpoint.load(best(work / "syncnet"), "syncnet"),
        amplified(newest(work / "generator", "generator")),
    )
    for loaded in networks:
        out, own = folder / f"{loaded.kind}.safetensors", state[loaded.kind]
        steps = own["steps"]
        checkpoint.save_small(out, loaded, {**METADATA, "steps": steps, "windows": own["windows"]})
        sys.stdout.write(f"{out}: width {loaded.width}, {steps} steps, {out.stat().st_size / 1e6:.2f} MB\n")
    (folder / "state.json").write_text(json.dumps(state, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
