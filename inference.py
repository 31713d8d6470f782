"""The original's command: `python inference.py --checkpoint_path ... --face ... --audio ...`."""

import sys

from wav2lip_npu.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["dub", *sys.argv[1:]]))
