"""Checkpoints of the starter's networks as the package ships them.

python recipes/starter_pack.py GENERATOR SYNCNET [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

from wav2lip_npu.models import checkpoint

SHIPPED = Path(__file__).resolve().parent.parent / "wav2lip_npu" / "weights"
TOLD = {
    "about": "starter of wav2lip-npu, see docs/starter.md",
    "licence": "CC-BY-4.0; learnt from the GRID corpus (Cooke, Barker, Cunningham, Shao) and short clips",
}


def main(generator: str, syncnet: str, folder: Path = SHIPPED) -> int:
    """Write FOLDER/generator.safetensors and FOLDER/syncnet.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, path in {"generator": generator, "syncnet": syncnet}.items():
        found = checkpoint.load(path, kind)
        out = folder / f"{kind}.safetensors"
        steps = (found.training or {}).get("global_step")
        checkpoint.save_small(out, found, {**TOLD, "steps": steps})
        sys.stdout.write(f"{out}: width {found.width}, {steps} steps, {out.stat().st_size / 1e6:.2f} MB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], *map(Path, sys.argv[3:])))
