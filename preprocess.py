"""The original's command: `python preprocess.py --data_root ... --preprocessed_root ...`."""

import sys

from wav2lip_npu.cli.main import console

if __name__ == "__main__":
    console(["preprocess", *sys.argv[1:]])
