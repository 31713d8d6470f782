"""The original's command: `python color_syncnet_train.py --data_root ... --checkpoint_dir ...`."""

import sys

from wav2lip_npu.cli.main import console

if __name__ == "__main__":
    console(["train_syncnet", *sys.argv[1:]])
