"""Convert checkpoints to the small weights files of the package.

python recipes/starter/pack.py GENERATOR SYNCNET [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

from wav2lip_npu.models import checkpoint

SHIPPED = Path(__file__).resolve().parents[2] / "wav2lip_npu" / "weights"
METADATA = {
    "about": "starter of wav2lip-npu, see docs/starter.md",
    "licence": "for research and evaluation only, see docs/starter.md",
}


def main(generator: str, syncnet: str, folder: Path = SHIPPED) -> int:
    """Write FOLDER/generator.safetensors and FOLDER/syncnet.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, path in {"generator": generator, "syncnet": syncnet}.items():
        loaded = checkpoint.load(path, kind)
        out = folder / f"{kind}.safetensors"
        steps = (loaded.training or {}).get("global_step")
        checkpoint.save_small(out, loaded, {**METADATA, "steps": steps})
        sys.stdout.write(f"{out}: width {loaded.width}, {steps} steps, {out.stat().st_size / 1e6:.2f} MB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], *map(Path, sys.argv[3:])))
