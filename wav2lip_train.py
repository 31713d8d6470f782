"""The original's command: `python wav2lip_train.py --data_root ... --checkpoint_dir ...`."""

import sys

from wav2lip_npu.cli.main import console

if __name__ == "__main__":
    console(["train", *sys.argv[1:]])
