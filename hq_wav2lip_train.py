"""The original's command: `python hq_wav2lip_train.py --data_root ... --checkpoint_dir ...`."""

import sys

from wav2lip_npu.cli.main import console

if __name__ == "__main__":
    console(["train", "--disc_wt", "0.07", *sys.argv[1:]])
