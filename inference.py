"""The original's command: `python inference.py --checkpoint_path ... --face ... --audio ...`."""

import sys

from wav2lip_npu.cli.main import console

if __name__ == "__main__":
    console(["dub", *sys.argv[1:]])
