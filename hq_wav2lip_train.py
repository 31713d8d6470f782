"""The original's command: `python hq_wav2lip_train.py --data_root ... --checkpoint_dir ...`."""

import sys

from wav2lip_npu.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", "--disc_wt", "0.07", *sys.argv[1:]]))
